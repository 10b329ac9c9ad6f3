-- Orders the end of connections: puts up a fence, writes the order down as a fact, and lists those that it means.
--
-- KEYS[1] conns of the shard    KEYS[2] generation of the shard    KEYS[3] kicks of the user    KEYS[4] ban of the user
-- KEYS[5] revocation of the user    KEYS[6] end of the session of the fence    KEYS[7] the family of that id
-- ARGV[1] user, empty for a guest    ARGV[2] id, or empty for all of the user's    ARGV[3] the ending    ARGV[4] how long orders are
-- kept, in ms    ARGV[5] 'revoked': only those with a grant that is; 'session': only those of the session in ARGV[6]; 'all'
-- ARGV[7] what the keys of ends begin with    ARGV[8] the fence: 'ban', 'revoke', 'session', or nothing    ARGV[9] the ban, or when
-- grants are revoked in ms (empty: now)    ARGV[10] until when the fence is kept if it is a ban (empty: for ever), or else how
-- long, in ms    ARGV[11] how many kicks of the user are kept    ARGV[12…] ids that stay
--
-- Answers the entries that are meant, whatever their leases; before when grants are revoked, with 'revoke'; the shard's
-- generation.

local at = now()
local user = ARGV[1]
local generation = redis.call('GET', KEYS[2]) or ''

local revoked
if ARGV[8] == 'ban' then
  if ARGV[10] == '' then
    redis.call('SET', KEYS[4], ARGV[9])
  elseif tonumber(ARGV[10]) > at then
    redis.call('SET', KEYS[4], ARGV[9], 'PXAT', ARGV[10])
  else
    redis.call('DEL', KEYS[4])
    return { {}, false, generation }
  end
elseif ARGV[8] == 'revoke' then
  revoked = math.max(tonumber(ARGV[9]) or at, tonumber(redis.call('GET', KEYS[5])) or 0)
  redis.call('SET', KEYS[5], text(revoked), 'PX', ARGV[10])
elseif ARGV[8] == 'session' then
  redis.call('SET', KEYS[6], '', 'PX', ARGV[10])
  if redis.call('HGET', KEYS[7], 'user') == user then
    redis.call('HSET', KEYS[7], 'dead', 'over')
  end
end

local stay, stay_text = {}, {}
for i = 12, #ARGV do
  stay[ARGV[i]] = true
  stay_text[#stay_text + 1] = ARGV[i] .. '\1'
end
local before = revoked or redis.call('GET', KEYS[5])
before = before and (tonumber(before) or math.huge)
local function meant(id, issued, session)
  if ARGV[5] == 'revoked' then
    return before and (time_of(issued) or -1) < before
  elseif ARGV[5] == 'session' then
    return session == ARGV[6]
  end
  return not stay[id]
end

local wanted = user
if ARGV[2] ~= '' then
  wanted = wanted .. '\0' .. ARGV[2]
end
local listed, starts, last = {}, {}, at
for _, entry in ipairs(entries(KEYS[1], wanted)) do
  local _, id, _, _, start, issued, session = split(entry)
  if id then
    starts[id] = start
  end
  if id and meant(id, issued, session) then
    listed[#listed + 1] = entry
    last = math.max(last, time_of(start) or 0)
    -- Stands until its own node has taken it out: that it is no longer listed may be its node's death, or a lease's.
    redis.call('SET', ARGV[7] .. id, ARGV[3], 'PX', ARGV[4])
  end
end

-- The fact holds for those too that are not listed now: whose node was taken for dead, or whose entries were lost.
if ARGV[2] ~= '' then
  redis.call('SET', ARGV[7] .. ARGV[2], ARGV[3], 'PX', ARGV[4])
elseif ARGV[5] == 'all' then
  local keep = {}
  for _, written in ipairs(redis.call('LRANGE', KEYS[3], 0, -1)) do
    local until_, its_stay, how = kick(written)
    -- A connection that came after it has begun then at the earliest, also by a clock that was set back.
    last = math.max(last, (until_ or 0) + 1)
    if until_ and until_ + ARGV[4] >= at then
      local its, text_of_its = {}, {}
      for id in string.gmatch(its_stay, '[^\1]+') do
        its[id] = true
        text_of_its[#text_of_its + 1] = id .. '\1'
      end
      -- An older kick is dropped if the new one ends all that it ends: the new one's exceptions are among its own.
      local says_less = true
      for id in pairs(stay) do
        says_less = says_less and its[id]
      end
      if not says_less then
        keep[#keep + 1] = { until_ = until_, stay = its, text = text_of_its, how = how }
      end
    end
  end
  table.insert(keep, 1, { until_ = last, stay = stay, text = stay_text, how = ARGV[3] })
  -- Of too many, the oldest goes into the one after it, which means all that it meant but those that stay by the later one alone.
  -- Of these stay those that are known to have begun after the oldest: nobody escapes it, and who is not listed may not stay.
  while #keep > tonumber(ARGV[11]) do
    local oldest = table.remove(keep)
    local next_one = keep[#keep]
    local text_of_its = {}
    for _, its in ipairs(next_one.text) do
      local id = string.sub(its, 1, -2)
      if oldest.stay[id] or (time_of(starts[id] or '') or 0) > oldest.until_ then
        text_of_its[#text_of_its + 1] = its
      else
        next_one.stay[id] = nil
      end
    end
    next_one.text = text_of_its
  end
  for i, its in ipairs(keep) do
    keep[i] = text(its.until_) .. '\0' .. table.concat(its.text) .. '\0' .. its.how
  end
  -- In this order, as a full Redis refuses the first of them, or none.
  redis.call('LTRIM', KEYS[3], redis.call('RPUSH', KEYS[3], unpack(keep)) - #keep, -1)
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
end
return { listed, revoked and text(revoked) or false, generation }
