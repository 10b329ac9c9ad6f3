-- Says when a lease that has run out was last renewed.
--
-- KEYS[1] leases    KEYS[2] info
-- ARGV[1] lease
--
-- Answers milliseconds since 1970; nil if the lease holds, or is not there.

local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local at = now()
if not ends or tonumber(ends) > at then
  return false
end
return tonumber(string.match(redis.call('HGET', KEYS[2], ARGV[1]) or '', '^(%d+):') or at)
