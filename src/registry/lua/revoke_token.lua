-- Revokes a token in one shard.
--
-- KEYS[1] revocation of the token
-- ARGV[1] until when, in ms; empty: for ARGV[2] ms from now
--
-- Never shortens what is there.

local at = now()
local ends = tonumber(ARGV[1]) or at + ARGV[2]
-- What is left of it; less than nothing if it is not there.
if ends > at and at + redis.call('PTTL', KEYS[1]) < ends then
  redis.call('SET', KEYS[1], '', 'PXAT', string.format('%.0f', ends))
end
return 1
