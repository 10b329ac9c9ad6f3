-- Closes a refresh family for a caller with its current token, the one before, or one that is newer.
--
-- KEYS[1] the family    (and the end of its user's session, which is read here)
-- ARGV[1] what the key of that begins with    ARGV[2] digest of the family's id    ARGV[3] number of the token
-- ARGV[4] hash of the token    ARGV[5] how long the end of a session is kept, in ms
--
-- Answers user, claims and expiry; nil if there is none for that token, or its connections have been ordered to end already.

local user, claims, expires, number, current, previous, dead = unpack(redis.call('HMGET', KEYS[1],
  'user', 'claims', 'expires', 'number', 'current', 'previous', 'dead'))
-- Newer than the current token: its rotation was lost.
local newer = tonumber(ARGV[3]) > (tonumber(number) or 0)
if not user or dead == 'over' or not (ARGV[4] == current or ARGV[4] == previous or newer) then
  return false
end
redis.call('HSETNX', KEYS[1], 'dead', 'closed')
redis.call('SET', ARGV[1] .. user .. '\0' .. ARGV[2], '', 'PX', ARGV[5])
return { user, claims, expires }
