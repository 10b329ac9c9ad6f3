-- Publishes to the nodes that hold a connection of a user.
--
-- KEYS[1] conns of the shard    KEYS[2] leases
-- ARGV[1] user    ARGV[2] the instance to leave out    ARGV[3] what a node's channel begins with    ARGV[4] the payload
--
-- Answers two values for each node: its instance, and how many heard it.

local live, told, answer = holds(KEYS[2]), {}, {}
for _, entry in ipairs(entries(KEYS[1], ARGV[1])) do
  local _, _, lease = split(entry)
  local instance = instance_of(lease)
  if instance ~= ARGV[2] and not told[instance] and live(lease) then
    told[instance] = true
    answer[#answer + 1] = instance
    answer[#answer + 1] = redis.call('PUBLISH', ARGV[3] .. instance, ARGV[4])
  end
end
return answer
