-- Notes that a node has put all its entries into a shard, under the generation that it has seen.
--
-- KEYS[1] generation of the shard    KEYS[2] the leases whose entries are in it under that generation
-- ARGV[1] the generation    ARGV[2] lease
--
-- Answers 1; 0, and notes nothing, if the shard has another generation by now: what was put in may be lost.

if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return 0
end
redis.call('SADD', KEYS[2], ARGV[2])
return 1
