-- Claims a call for one that is about to carry it out. Can be repeated by it, which prolongs the claim.
--
-- KEYS[1] the call
-- ARGV[1] digest of what is asked for    ARGV[2] name of the claim    ARGV[3] how long the claim holds, in ms
-- ARGV[4] how long the call is remembered, in ms
--
-- Answers 'taken'; 'under way' if another claim holds; 'other' if the call asked for something else; or 'done' and the answer.

local asked, by, ends, answer = unpack(redis.call('HMGET', KEYS[1], 'asked', 'by', 'ends', 'answer'))
if asked and asked ~= ARGV[1] then
  return { 'other', '' }
end
if answer then
  return { 'done', answer }
end
local at = now()
if by and by ~= ARGV[2] and (tonumber(ends) or 0) > at then
  return { 'under way', '' }
end
redis.call('HSET', KEYS[1], 'asked', ARGV[1], 'by', ARGV[2], 'ends', text(at + ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return { 'taken', '' }
