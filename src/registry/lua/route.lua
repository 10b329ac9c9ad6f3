-- Publishes to the nodes that hold a connection: of a user, or one.
--
-- KEYS[1] conns of the shard    KEYS[2] leases of the shard
-- ARGV[1] user, empty for a guest    ARGV[2] id, or empty for all of the user's    ARGV[3] the instance to leave out
-- ARGV[4] what a node's channel in the shard begins with    ARGV[5] the payload
-- ARGV[6] the lease of the node that asks, or empty
--
-- Answers two values for each node: its instance, and how many heard it; nil if the lease doesn't hold.

if not may_ask(KEYS[2], ARGV[6]) then
  return false
end

local wanted = ARGV[1]
if ARGV[2] ~= '' then
  wanted = wanted .. '\0' .. ARGV[2]
end
local live, told, answer = holds(KEYS[2]), {}, {}
for _, entry in ipairs(entries(KEYS[1], wanted)) do
  local _, _, lease = split(entry)
  local instance = lease and instance_of(lease)
  if instance and instance ~= ARGV[3] and not told[instance] and live(lease) then
    told[instance] = true
    answer[#answer + 1] = instance
    answer[#answer + 1] = redis.call('SPUBLISH', ARGV[4] .. instance, ARGV[5])
  end
end
return answer
