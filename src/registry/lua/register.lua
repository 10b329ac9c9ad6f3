-- Adds an entry, in place of an earlier one of the same id under whatever lease.
--
-- KEYS[1] conns of the shard    KEYS[2] entries of the lease in the shard    KEYS[3] users of the shard    KEYS[4] leases
-- ARGV[1] lease    ARGV[2] user, empty for a guest    ARGV[3] id    ARGV[4] the entry
--
-- Answers connections and devices of the user, in leases that hold; nil, and adds nothing, if the lease itself doesn't:
-- an entry added now might never be reaped.

local live = holds(KEYS[4])
if not live(ARGV[1]) then
  return false
end

local own = ARGV[2]
if own == '' then
  own = '\0' .. ARGV[3]
end
local earlier = entries(KEYS[1], own)

-- The two writes that a full Redis refuses come first, so that it refuses all or nothing.
redis.call('ZADD', KEYS[1], 0, ARGV[4])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[2])
if ARGV[2] ~= '' and #earlier == 0 then
  redis.call('INCR', KEYS[3])
end

local connections, devices, named = 0, 0, {}
local function count(device)
  connections = connections + 1
  if device == '' or not named[device] then
    named[device] = true
    devices = devices + 1
  end
end
for _, entry in ipairs(earlier) do
  local _, id, lease, _, device = split(entry)
  if id == ARGV[3] then
    if entry ~= ARGV[4] then
      redis.call('ZREM', KEYS[1], entry)
    end
  elseif live(lease) then
    count(device)
  end
end
local _, _, _, _, device = split(ARGV[4])
count(device)
return { connections, devices }
