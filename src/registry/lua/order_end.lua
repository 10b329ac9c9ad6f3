-- Orders the end of connections: writes the order down for each, and publishes it to the nodes that hold them.
--
-- KEYS[1] conns of the shard    KEYS[2] leases    KEYS[3] names    KEYS[4] orders to end of the shard
-- ARGV[1] user, empty for a guest    ARGV[2] id, or empty for all of the user's    ARGV[3] the instance not to publish to
-- ARGV[4] what a node's channel begins with    ARGV[5] the payload    ARGV[6] the order
-- ARGV[7] how long orders are kept, in ms    ARGV[8…] ids that stay
--
-- Answers two lists: entry and name of its node for each connection in a lease that holds; instance and how many heard it
-- for each node. Entries of leases that have run out get the order too: their node may come back with them.

local live, at = holds(KEYS[2]), now()
local stays = {}
for i = 8, #ARGV do
  stays[ARGV[i]] = true
end

local wanted = ARGV[1]
if ARGV[2] ~= '' then
  wanted = wanted .. '\0' .. ARGV[2]
end
local ordered, routed, told = {}, {}, {}
for _, entry in ipairs(entries(KEYS[1], wanted)) do
  local _, id, lease = split(entry)
  if not stays[id] then
    redis.call('HSET', KEYS[4], id, string.format('%.0f:', at) .. ARGV[6])
    if live(lease) then
      ordered[#ordered + 1] = entry
      ordered[#ordered + 1] = redis.call('HGET', KEYS[3], lease) or ''
      local instance = instance_of(lease)
      if instance ~= ARGV[3] and not told[instance] then
        told[instance] = true
        routed[#routed + 1] = instance
        routed[#routed + 1] = redis.call('PUBLISH', ARGV[4] .. instance, ARGV[5])
      end
    end
  end
end

-- The hash as a whole lives on while orders come, so each call also looks at a few old ones, as Redis does with its keys.
if redis.call('PEXPIRE', KEYS[4], ARGV[7]) == 1 then
  local some = redis.call('HRANDFIELD', KEYS[4], 16, 'WITHVALUES')
  for i = 1, #some, 2 do
    if tonumber(string.match(some[i + 1], '^(%d+):') or 0) + ARGV[7] <= at then
      redis.call('HDEL', KEYS[4], some[i])
    end
  end
end
return { ordered, routed }
