-- What the scripts share; put in front of each of them.
--
-- An entry is a member of a shard's `conns`:
--   user \0 id \0 lease \0 device \0 start \0 issued \0 session \0 version \0 rest
-- Users and devices are escaped, so no field but the last holds a \0; a guest's user is empty. The start of the connection, by
-- the clock of the shard, and the issue of its grant are ms since 1970 to the base of 36; the session is a digest; those that are
-- not known are empty. The version counts the changes of the entry; empty for none. The rest is for the nodes alone: a map, which later versions add to.

-- Milliseconds since 1970 by the clock of Redis.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- A time as it is written down.
local function text(ms)
  return string.format('%.0f', ms)
end

-- A time as an entry has it, in 8 characters for the next decades.
local function compact(ms)
  local digits = ''
  repeat
    local digit = ms % 36
    digits = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. digits
    ms = (ms - digit) / 36
  until ms < 1
  return digits
end

-- A time of an entry; nothing if it has none.
local function time_of(field)
  return tonumber(field, 36)
end

-- The entries whose first fields are `fields`, joined by \0; at most `limit` of them, if it is given.
local function entries(conns, fields, limit)
  local from, to = '[' .. fields .. '\0', '(' .. fields .. '\1'
  if limit then
    return redis.call('ZRANGEBYLEX', conns, from, to, 'LIMIT', 0, limit)
  end
  return redis.call('ZRANGEBYLEX', conns, from, to)
end

-- The fields of an entry but the rest; nothing, if it is not written as above. (%z is how a pattern of Lua 5.1 writes \0, and %Z all else.)
local function split(entry)
  return string.match(entry, '^(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z(%Z*)%z')
end

-- What is held against a grant: 'banned', 'revoked', 'ended', or nil. Takes the keys of its user's ban and revocation, of its
-- token's revocation and of its session's end, and when it was issued in ms, or nil. Without a key, no revocation of the user's counts.
local function barred(ban, revoked, token, session, issued)
  if redis.call('EXISTS', ban) == 1 then
    return 'banned'
  end
  local found = revoked and redis.call('GET', revoked)
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

-- A kick as it is kept in the list of its user's: until when connections must have started to be meant, in ms, a \0, the ids of
-- those that stay, each with a \1 behind it, a \0, and how the others end.
local function kick(written)
  local before, stay, ending = string.match(written, '^(%d+)%z(%Z*)%z(.*)$')
  return tonumber(before), stay, ending
end

-- Whether an id is among those that stay.
local function stays(stay, id)
  return string.find('\1' .. stay, '\1' .. id .. '\1', 1, true) ~= nil
end

-- The schema as it is written in the table of leases; nothing if it can't be read.
local function schema_of(written)
  local is_json, schema = pcall(cjson.decode, written or '')
  if not is_json or type(schema) ~= 'table' then
    return nil
  end
  for _, name in ipairs({ 'layout', 'shards', 'level', 'least' }) do
    if type(schema[name]) ~= 'number' then
      return nil
    end
  end
  return schema
end

-- Adds a notification to outboxes, one for each backend that is told. `about`: the user, connection or room that it is about, as the notifications of one
-- are delivered in order. `kept`: how long an outbox that nobody adds to is kept, in ms. `data` and `at` may be nil.
local function tell(outboxes, kept, kind, about, data, at)
  local fields = { 't', kind, 'o', about }
  if data then
    fields[#fields + 1] = 'd'
    fields[#fields + 1] = data
  end
  if at then
    fields[#fields + 1] = 'a'
    fields[#fields + 1] = at
  end
  for _, outbox in ipairs(outboxes) do
    redis.call('XADD', outbox, '*', unpack(fields))
    redis.call('PEXPIRE', outbox, kept)
  end
end
