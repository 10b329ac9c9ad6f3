-- Orders the end of connections: puts up a fence, writes the order down for each, and publishes it to the nodes that hold
-- them.
--
-- KEYS[1] conns of the shard    KEYS[2] leases of the shard    KEYS[3] notes of the shard    KEYS[4] orders to end of the shard
-- KEYS[5] ban of the user    KEYS[6] revocation of the user    KEYS[7] end of the session of the fence
-- KEYS[8] the family of that id
-- ARGV[1] user, empty for a guest    ARGV[2] id, or empty for all of the user's    ARGV[3] the instance not to publish to
-- ARGV[4] what a node's channel in the shard begins with    ARGV[5] the payload    ARGV[6] the order
-- ARGV[7] how long orders are kept, in ms    ARGV[8] 'revoked': only those with a grant that is; 'session': only those of the
-- session in ARGV[9]; 'all'
-- ARGV[10] the fence: 'ban', 'revoke', 'session', or nothing    ARGV[11] the ban, or when grants are revoked in ms (empty: now)
-- ARGV[12] until when the fence is kept if it is a ban (empty: for ever), or else how long, in ms    ARGV[13] the lease of the
-- node that asks, or empty    ARGV[14…] ids that stay
--
-- Answers two lists: entry and name of its node for each connection in a lease that holds; instance and how many heard it
-- for each node. Entries of leases that have run out get the order too: their node may come back with them. Then, with
-- 'revoke', before when grants are revoked. Nil, and does nothing, if the lease doesn't hold.

if not may_ask(KEYS[2], ARGV[13]) then
  return false
end

local live, at = holds(KEYS[2]), now()

local revoked
if ARGV[10] == 'ban' then
  if ARGV[12] == '' then
    redis.call('SET', KEYS[5], ARGV[11])
  elseif tonumber(ARGV[12]) > at then
    redis.call('SET', KEYS[5], ARGV[11], 'PXAT', ARGV[12])
  else
    redis.call('DEL', KEYS[5])
    return { {}, {}, false }
  end
elseif ARGV[10] == 'revoke' then
  revoked = math.max(tonumber(ARGV[11]) or at, tonumber(redis.call('GET', KEYS[6])) or 0)
  redis.call('SET', KEYS[6], string.format('%.0f', revoked), 'PX', ARGV[12])
elseif ARGV[10] == 'session' then
  redis.call('SET', KEYS[7], '', 'PX', ARGV[12])
  if redis.call('HGET', KEYS[8], 'user') == ARGV[1] then
    redis.call('HSET', KEYS[8], 'dead', 'over')
  end
end

local stays = {}
for i = 14, #ARGV do
  stays[ARGV[i]] = true
end
local before = revoked or redis.call('GET', KEYS[6])
before = before and (tonumber(before) or math.huge)
local function meant(id, issued, session)
  if ARGV[8] == 'revoked' then
    return before and (tonumber(issued, 36) or -1) < before
  elseif ARGV[8] == 'session' then
    return session == ARGV[9]
  end
  return not stays[id]
end

local wanted = ARGV[1]
if ARGV[2] ~= '' then
  wanted = wanted .. '\0' .. ARGV[2]
end
local ids, ordered, routed, told = {}, {}, {}, {}
for _, entry in ipairs(entries(KEYS[1], wanted)) do
  local _, id, lease, _, _, _, issued, session = split(entry)
  if id and meant(id, issued, session) then
    ids[#ids + 1] = id
    if live(lease) then
      ordered[#ordered + 1] = entry
      local _, name = noted(redis.call('HGET', KEYS[3], lease))
      ordered[#ordered + 1] = name or ''
      local instance = instance_of(lease)
      if instance ~= ARGV[3] and not told[instance] then
        told[instance] = true
        routed[#routed + 1] = instance
      end
    end
  end
end

if #ids > 0 then
  give_order(KEYS[4], ids, ARGV[6], ARGV[7])
end
local heard = {}
for _, instance in ipairs(routed) do
  heard[#heard + 1] = instance
  heard[#heard + 1] = redis.call('SPUBLISH', ARGV[4] .. instance, ARGV[5])
end
return { ordered, heard, revoked or false }
