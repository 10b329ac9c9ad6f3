-- What the scripts share; put in front of each of them.
--
-- An entry is a member of a shard's `conns`:
--   user \0 id \0 lease \0 namespace \0 device \0 start \0 issued \0 session \0 rest
-- Users, namespaces and devices are escaped, so no field but the last holds a \0; a guest's user is empty. The start of the
-- connection and the issue of its grant are ms since 1970 to the base of 36; the session is a digest; those that are not known
-- are empty. The rest is for the nodes alone.

-- Milliseconds since 1970 by the clock of Redis, the only one that leases are held against.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- What a place notes of a lease: when it was last renewed, in ms, a colon, and a text.
local function note(at, text)
  return string.format('%.0f:', at) .. text
end

-- When a lease was last renewed, and the text, of its note; nothing if it has none.
local function noted(found)
  return string.match(found or '', '^(%d+):(.*)$')
end

-- A function that says whether a lease still holds, and asks Redis once for each. None (nil) does not: so it is with an entry
-- that can't be read, which `split` has no fields of.
local function holds(leases)
  local at, known = now(), {}
  return function(lease)
    if not lease then
      return false
    end
    if known[lease] == nil then
      local ends = redis.call('ZSCORE', leases, lease)
      known[lease] = ends and tonumber(ends) > at or false
    end
    return known[lease]
  end
end

-- Whether a node may be told what is here, by its lease, or whoever is none (empty). Where its lease is lost, its entries may
-- be too, and those of others: nobody can say then that somebody is not there.
local function may_ask(leases, lease)
  return lease == '' or holds(leases)(lease)
end

-- The entries whose first fields are `fields`, joined by \0.
local function entries(conns, fields)
  return redis.call('ZRANGEBYLEX', conns, '[' .. fields .. '\0', '(' .. fields .. '\1')
end

-- The fields of an entry but the rest; nothing, if it is not written as above. (%z is how a pattern of Lua 5.1 writes \0, and %Z all else.)
local function split(entry)
  return string.match(entry, '^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z')
end

-- What is held against a grant: 'banned', 'revoked', 'ended', or nil. Takes the keys of its user's ban and revocation, of its
-- token's revocation and of its session's end, and when it was issued in ms, or nil.
local function barred(ban, revoked, token, session, issued)
  if redis.call('EXISTS', ban) == 1 then
    return 'banned'
  end
  local found = redis.call('GET', revoked)
  local before = tonumber(found)
  -- One that can't be read is held against all.
  if found and (not before or not issued or issued < before) then
    return 'revoked'
  end
  if redis.call('EXISTS', token) == 1 then
    return 'revoked'
  end
  if redis.call('EXISTS', session) == 1 then
    return 'ended'
  end
end

-- The order to end that a connection has, of those that are kept for `kept` ms; nil if it has none.
local function order_of(orders, id, kept)
  local given, order = string.match(redis.call('HGET', orders, id) or '', '^(%d+):(.*)$')
  if given and given + kept > now() then
    return order
  end
end

-- Writes an order to end down for connections, which is kept for `kept` ms.
local function give_order(orders, ids, order, kept)
  local at = now()
  for _, id in ipairs(ids) do
    redis.call('HSET', orders, id, string.format('%.0f:', at) .. order)
  end
  -- The hash as a whole lives on while orders come, so each call also looks at a few old ones, as Redis does with its keys.
  if redis.call('PEXPIRE', orders, kept) == 1 then
    local some = redis.call('HRANDFIELD', orders, 16, 'WITHVALUES')
    for i = 1, #some, 2 do
      if tonumber(string.match(some[i + 1], '^(%d+):') or 0) + kept <= at then
        redis.call('HDEL', orders, some[i])
      end
    end
  end
end
