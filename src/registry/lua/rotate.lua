-- Uses a refresh token that was issued once.
--
-- KEYS[1] the family    KEYS[2] what nobody writes, in place of the revocation of a token    (and, of the family's user, which
-- is read here: ban, revocation, end of the session that it is)
-- ARGV[1], ARGV[2], ARGV[3] what the keys of those begin with    ARGV[4] digest of the family's id
-- ARGV[5], ARGV[6] number and hash of the token    ARGV[7], ARGV[8] of its successor    ARGV[9] the grace, in ms
-- ARGV[10] how long the family lives on in ms; empty: as it would    ARGV[11] how long the end of a session is kept, in ms
--
-- Answers 'unknown', or what bars it; or 'rotated', 'recovered', 'repeated' or 'reused', and then user, claims and expiry. Last
-- comes when that was, in ms.

local at = now()
local asked = string.format('%.0f', at)
local user, claims, expires, opened, number, current, previous, rotated, dead = unpack(redis.call('HMGET', KEYS[1],
  'user', 'claims', 'expires', 'opened', 'number', 'current', 'previous', 'rotated', 'dead'))
-- 'closed' and 'reused': the order to end its connections has yet to be given, which makes it 'over'.
if not user or dead == 'closed' or dead == 'over' then
  return { 'unknown', '', '', '', asked }
end

local over = ARGV[3] .. user .. '\0' .. ARGV[4]
local repeated = ARGV[6] == previous and rotated + ARGV[9] >= at
-- A family without a number has a current token without one, which counts as 0.
local newer = ARGV[6] ~= current and tonumber(ARGV[5]) > (tonumber(number) or 0)
if dead or not (ARGV[6] == current or repeated or newer) then
  redis.call('HSET', KEYS[1], 'dead', 'reused')
  redis.call('SET', over, '', 'PX', ARGV[11])
  return { 'reused', user, claims, expires, asked }
end

local bar = barred(ARGV[1] .. user, ARGV[2] .. user, KEYS[2], over, tonumber(opened))
if bar then
  return { bar, '', '', '', asked }
end
if repeated then
  return { 'repeated', user, claims, expires, asked }
end
if ARGV[10] ~= '' then
  expires = string.format('%.0f', at + ARGV[10])
end
redis.call('HSET', KEYS[1], 'number', ARGV[7], 'current', ARGV[8], 'previous', ARGV[6], 'rotated', asked,
  'expires', expires)
redis.call('PEXPIREAT', KEYS[1], expires)
return { newer and 'recovered' or 'rotated', user, claims, expires, asked }
