-- Gives a claimed call its end. Changes nothing if another claim has taken its place.
--
-- KEYS[1] the call
-- ARGV[1] digest of what was asked for    ARGV[2] name of the claim    ARGV[3] 'done', 'unknown' or 'free'    ARGV[4] the answer, if
-- it is done    ARGV[5] how long the call is remembered from now on, in ms
--
-- Answers 1, or 0 if nothing was changed.

local by = redis.call('HGET', KEYS[1], 'by')
if by and by ~= ARGV[2] then
  return 0
end
if ARGV[3] == 'free' then
  redis.call('DEL', KEYS[1])
  return 1
end
-- Also where the claim was lost: what is done is not to be done again.
if ARGV[3] == 'done' then
  redis.call('HSET', KEYS[1], 'asked', ARGV[1], 'by', ARGV[2], 'answer', ARGV[4])
else
  redis.call('HSET', KEYS[1], 'asked', ARGV[1])
  redis.call('HDEL', KEYS[1], 'by', 'ends')
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
return 1
