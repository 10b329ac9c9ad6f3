-- Adds an entry, in place of an earlier one of the same id under whatever lease, if nothing is held against it.
--
-- KEYS[1] conns of the shard    KEYS[2] entries of the lease in the shard    KEYS[3] users of the shard
-- KEYS[4] leases of the shard    KEYS[5] orders to end of the shard    KEYS[6] ban of the user    KEYS[7] revocation of the
-- user    KEYS[8] revocation of the token    KEYS[9] end of the session    KEYS[10] newcomers of the user
-- ARGV[1] lease    ARGV[2] user, empty for a guest    ARGV[3] id    ARGV[4] the entry    ARGV[5] how many connections the user
-- may have, 0: any number    ARGV[6] the order to end for the oldest ones that are in the way; empty: the new one is refused
-- ARGV[7] how long orders are kept, in ms    ARGV[8] how many may come together, 0: any number    ARGV[9] for how long they
-- count as together, in ms
--
-- Answers nil, and adds nothing, if the lease doesn't hold in the shard: an entry added now might never be reaped. Else four
-- values: what bars it, or nothing; connections and devices of the user, in leases that hold; the ids of those that make room.

local live = holds(KEYS[4])
if not live(ARGV[1]) then
  return false
end

local _, _, _, _, device, _, issued = split(ARGV[4])
local bar = barred(KEYS[6], KEYS[7], KEYS[8], KEYS[9], tonumber(issued, 36))
if bar then
  return { bar, 0, 0, {} }
end

-- Before the user's entries are read: a refusal costs the same however many there are.
local together = tonumber(ARGV[8])
if together > 0 then
  local come = redis.call('INCR', KEYS[10])
  if come == 1 then
    redis.call('PEXPIRE', KEYS[10], ARGV[9])
  end
  if come > together then
    return { 'too often', 0, 0, {} }
  end
end

local own = ARGV[2]
if own == '' then
  own = '\0' .. ARGV[3]
end
local earlier = entries(KEYS[1], own)

local others, was_there = {}, false
for _, entry in ipairs(earlier) do
  local _, id, lease, _, its_device, start = split(entry)
  if id == ARGV[3] then
    was_there = true
  elseif live(lease) then
    others[#others + 1] = { id = id, device = its_device, start = tonumber(start, 36) or 0 }
  end
end

-- Who makes room: those that are to, and those that an earlier call made do so.
local goes, evicted, ordered = {}, {}, {}
local function evict(other)
  goes[other.id] = true
  evicted[#evicted + 1] = other.id
end
local max = tonumber(ARGV[5])
if max > 0 then
  local stay = {}
  for _, other in ipairs(others) do
    local order = order_of(KEYS[5], other.id, ARGV[7])
    if not order then
      stay[#stay + 1] = other
    elseif order == ARGV[6] then
      evict(other)
    end
  end
  if not was_there and #stay >= max then
    if ARGV[6] == '' then
      return { 'too many', 0, 0, {} }
    end
    table.sort(stay, function(a, b)
      if a.start == b.start then
        return a.id < b.id
      end
      return a.start < b.start
    end)
    for i = 1, #stay - max + 1 do
      evict(stay[i])
      ordered[#ordered + 1] = stay[i].id
    end
  end
end

-- The two writes that a full Redis refuses come first, so that it refuses all or nothing.
redis.call('ZADD', KEYS[1], 0, ARGV[4])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[2])
if ARGV[2] ~= '' and #earlier == 0 then
  redis.call('INCR', KEYS[3])
end
for _, entry in ipairs(earlier) do
  local _, id = split(entry)
  if id == ARGV[3] and entry ~= ARGV[4] then
    redis.call('ZREM', KEYS[1], entry)
  end
end
if #ordered > 0 then
  give_order(KEYS[5], ordered, ARGV[6], ARGV[7])
end

local connections, devices, named = 0, 0, {}
local function count(name)
  connections = connections + 1
  if name == '' or not named[name] then
    named[name] = true
    devices = devices + 1
  end
end
count(device)
for _, other in ipairs(others) do
  if not goes[other.id] then
    count(other.device)
  end
end
return { '', connections, devices, evicted }
