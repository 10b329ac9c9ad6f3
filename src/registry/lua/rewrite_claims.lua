-- Replaces the claims of a refresh family, which stays as it is otherwise.
--
-- KEYS[1] the family
-- ARGV[1] the claims that it has    ARGV[2] those that it is to have
--
-- Answers 1; 0, and changes nothing, if it has others or is not there.

if redis.call('HGET', KEYS[1], 'claims') ~= ARGV[1] then
  return 0
end
redis.call('HSET', KEYS[1], 'claims', ARGV[2])
return 1
