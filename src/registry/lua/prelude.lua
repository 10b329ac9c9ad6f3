-- What the scripts share; put in front of each of them.
--
-- An entry is a member of a shard's `conns`: user \0 id \0 lease \0 namespace \0 device \0 rest. Users and devices are
-- escaped, so none of the first five holds a \0; a guest's user is empty. The rest is for the nodes alone.

-- Milliseconds since 1970 by the clock of Redis, the only one that leases are held against.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A function that says whether a lease still holds, and asks Redis once for each.
local function holds(leases)
  local at, known = now(), {}
  return function(lease)
    if known[lease] == nil then
      local ends = redis.call('ZSCORE', leases, lease)
      known[lease] = ends and tonumber(ends) > at or false
    end
    return known[lease]
  end
end

-- The entries whose first fields are `fields`, joined by \0.
local function entries(conns, fields)
  return redis.call('ZRANGEBYLEX', conns, '[' .. fields .. '\0', '(' .. fields .. '\1')
end

-- The first five fields of an entry. (%z is how a pattern of Lua 5.1 writes \0, and %Z all else.)
local function split(entry)
  return string.match(entry, '^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z')
end

-- The run of a node that a lease belongs to: the lease without its epoch.
local function instance_of(lease)
  return string.match(lease, '^(.*)%.%d+$')
end
