-- Makes an entry be there as it is given, in place of an earlier one of the same id under whatever lease, unless something is held
-- against it. Can be repeated.
--
-- KEYS[1] conns of the shard    KEYS[2] entries of the lease in the shard    KEYS[3] users of the shard
-- KEYS[4] generation of the shard    KEYS[5] ban of the user    KEYS[6] revocation of the user    KEYS[7] revocation of the token
-- KEYS[8] end of the session    KEYS[9] newcomers of the user    KEYS[10] kicks of the user    KEYS[11] end of the connection
-- KEYS[12] connections that are not where their ids say    KEYS[13] when the token was first seen, if it is of the future
-- KEYS[14] lasting memberships of the user    KEYS[15] users that are about to count as offline    KEYS[16] when the user was last
-- seen
-- ARGV[1] generation that is meant    ARGV[2] lease    ARGV[3] user, empty for a guest    ARGV[4] id    ARGV[5] the entry up to its
-- start    ARGV[6] session and what follows    ARGV[7] version    ARGV[8] start of the connection, in ms; empty: it begins now
-- ARGV[9] when its grant was issued, in ms; empty: not known    ARGV[10] until when a token of the future is remembered, in ms
-- ARGV[11] 1: the id does not say where the connection is    ARGV[12] 1: it was let in before, so no limit is held against it
-- ARGV[13] how many connections the user may have, 0: any number    ARGV[14] the order to end for the oldest ones that are in the
-- way; empty: the new one is refused    ARGV[15] what the keys of ends begin with    ARGV[16] how long ends are kept, in ms
-- ARGV[17] how many may come together, 0: any number    ARGV[18] for how long they count as together, in ms    ARGV[19] how many
-- entries are looked at to count devices    ARGV[20] backends to tell, empty for none; else JSON: `opened` and `online`, outboxes,
-- `connection`, the data of the first, and `kept`, as `tell` has it    ARGV[21…] leases of nodes that are gone
--
-- Answers 'generation' if the shard has another one; 'end' and the ending if it is ordered to end; 'bar' and what bars it; or 'in',
-- the start, connections and devices of the user (devices beyond those looked at count as one each), the ids of those that make
-- room, and the lasting memberships of the user.

if redis.call('GET', KEYS[4]) ~= ARGV[1] then
  return { 'generation' }
end

local at, user, id = now(), ARGV[3], ARGV[4]
local version, start, issued = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])

local earlier = entries(KEYS[1], user .. '\0' .. id)
local newer
local its_issues = {}
for _, entry in ipairs(earlier) do
  local _, _, lease, _, its_start, its_issued, _, its_version = split(entry)
  if lease then
    its_issues[its_issued] = true
    start = start or time_of(its_start)
    if lease == ARGV[2] and (tonumber(its_version) or 0) > version then
      newer = entry
    end
  end
end

local ending = redis.call('GET', KEYS[11])
if ending then
  return { 'end', ending }
end
local last = 0
if user ~= '' then
  for _, written in ipairs(redis.call('LRANGE', KEYS[10], 0, -1)) do
    local before, stay, how = kick(written)
    if before then
      last = math.max(last, before)
      if start and start <= before and not stays(stay, id) then
        return { 'end', how }
      end
    end
  end
end

-- Of a token that says it is of the future, revocations are held against when it was first seen.
if issued and ARGV[10] ~= '' then
  if issued > at then
    -- A revocation of the same millisecond came before it if there is one already, and else after it.
    local seen = tonumber(redis.call('GET', KEYS[6])) == at and at or at - 1
    redis.call('SET', KEYS[13], text(seen), 'NX', 'PXAT', ARGV[10])
  end
  issued = tonumber(redis.call('GET', KEYS[13])) or issued
end
-- A revocation orders the end of each listed connection that it means. So one that is listed by this same grant was excepted from it.
local stays_in = its_issues[issued and compact(issued) or '']
local bar = barred(KEYS[5], not stays_in and KEYS[6], KEYS[7], KEYS[8], issued)
if bar then
  return { 'bar', bar }
end
local lasting = user == '' and {} or redis.call('HGETALL', KEYS[14])
if newer then
  return { 'in', text(start), 0, 0, {}, lasting }
end

local first = ARGV[12] ~= '1' and user ~= ''
-- Before the user's entries are read: a refusal costs the same however many there are.
local together = tonumber(ARGV[17])
if first and together > 0 then
  local come = redis.call('INCR', KEYS[9])
  if come == 1 then
    redis.call('PEXPIRE', KEYS[9], ARGV[18])
  end
  if come > together then
    return { 'bar', 'too often' }
  end
end

local count = 0
if user ~= '' then
  count = redis.call('ZLEXCOUNT', KEYS[1], '[' .. user .. '\0', '(' .. user .. '\1')
end
local gone = {}
for i = 21, #ARGV do
  gone[ARGV[i]] = true
end

-- Who makes room: those that are to, and those that an earlier call made do so.
local goes, evicted, ordered = {}, {}, {}
local max = tonumber(ARGV[13])
if first and max > 0 and count >= max then
  local stay = {}
  for _, entry in ipairs(entries(KEYS[1], user)) do
    local _, other, lease, _, its_start = split(entry)
    if other and other ~= id and not gone[lease] then
      local order = redis.call('GET', ARGV[15] .. other)
      if not order then
        stay[#stay + 1] = { id = other, start = time_of(its_start) or 0 }
      elseif order == ARGV[14] then
        evicted[#evicted + 1] = other
      end
    end
  end
  if #earlier == 0 and #stay >= max then
    if ARGV[14] == '' then
      return { 'bar', 'too many' }
    end
    table.sort(stay, function(a, b)
      if a.start == b.start then
        return a.id < b.id
      end
      return a.start < b.start
    end)
    for i = 1, #stay - max + 1 do
      evicted[#evicted + 1] = stay[i].id
      ordered[#ordered + 1] = stay[i].id
    end
  end
  for _, other in ipairs(evicted) do
    goes[other] = true
  end
end

start = start or math.max(at, last + 1)
local entry = ARGV[5] .. compact(start) .. '\0' .. (issued and compact(issued) or '') .. '\0' .. ARGV[6]
-- The writes that a full Redis refuses come first, so that it refuses all or nothing.
redis.call('ZADD', KEYS[1], 0, entry)
redis.call('HSET', KEYS[2], id, user)
if ARGV[11] == '1' then
  redis.call('HSET', KEYS[12], id, user)
end
-- A count that was lost stays lost, for a reader to see, unless this is the only entry.
if user ~= '' and count == 0 and (redis.call('EXISTS', KEYS[3]) == 1 or redis.call('ZCARD', KEYS[1]) == 1) then
  redis.call('INCR', KEYS[3])
end
for _, before in ipairs(earlier) do
  if before ~= entry then
    redis.call('ZREM', KEYS[1], before)
  end
end
for _, other in ipairs(ordered) do
  redis.call('SET', ARGV[15] .. other, ARGV[14], 'PX', ARGV[16])
end
if ARGV[20] ~= '' and #earlier == 0 then
  local told = cjson.decode(ARGV[20])
  local about = user ~= '' and 'u' .. user or 'c' .. id
  -- One that was let in before is put back after a loss of data, of which nobody is told; or after its node was taken for dead, of
  -- which everybody was, and which has left behind when its user was last seen.
  local is_news = ARGV[12] ~= '1' or redis.call('EXISTS', KEYS[16]) == 1
  if is_news then
    tell(told.opened, told.kept, 'connection.opened', about, told.connection)
  end
  if user ~= '' and count == 0 and redis.call('ZREM', KEYS[15], user) == 0 and is_news then
    tell(told.online, told.kept, 'user.online', about)
  end
end
if not first then
  return { 'in', text(start), 1, 1, {}, lasting }
end

local connections, devices, named, going = 0, 0, {}, #evicted
local some = entries(KEYS[1], user, tonumber(ARGV[19]))
for _, other in ipairs(some) do
  local _, its_id, lease, device = split(other)
  if goes[its_id] then
    going = going - 1
  elseif its_id and not gone[lease] then
    connections = connections + 1
    if device == '' or not named[device] then
      named[device] = true
      devices = devices + 1
    end
  end
end
local more = redis.call('ZLEXCOUNT', KEYS[1], '[' .. user .. '\0', '(' .. user .. '\1') - #some - going
return { 'in', text(start), connections + more, devices + more, evicted, lasting }
