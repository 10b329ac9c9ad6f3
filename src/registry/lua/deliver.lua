-- Makes a node the one that delivers the notifications of a shard, or prolongs that, or ends it.
--
-- KEYS[1] who delivers them
-- ARGV[1] the run of the node    ARGV[2] for how long, in ms; 0: no longer
--
-- Answers 1, or 0 if another node does.

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return 0
end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
end
return 1
