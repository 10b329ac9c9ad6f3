-- Orders the end of connections: puts up a fence, and writes the order down for each.
--
-- KEYS[1] conns of the shard    KEYS[2] leases of the shard    KEYS[3] orders to end of the shard    KEYS[4] ban of the user
-- KEYS[5] revocation of the user    KEYS[6] end of the session of the fence    KEYS[7] the family of that id
-- ARGV[1] user, empty for a guest    ARGV[2] id, or empty for all of the user's    ARGV[3] the order
-- ARGV[4] how long orders are kept, in ms    ARGV[5] 'revoked': only those with a grant that is; 'session': only those of the
-- session in ARGV[6]; 'all'
-- ARGV[7] the fence: 'ban', 'revoke', 'session', or nothing    ARGV[8] the ban, or when grants are revoked in ms (empty: now)
-- ARGV[9] until when the fence is kept if it is a ban (empty: for ever), or else how long, in ms    ARGV[10] the lease of the
-- node that asks, or empty    ARGV[11…] ids that stay
--
-- Answers the entries in a lease that holds. Entries of leases that have run out get the order too: their node may come back
-- with them. Then, with 'revoke', before when grants are revoked. Nil, and does nothing, if the lease doesn't hold.

if not may_ask(KEYS[2], ARGV[10]) then
  return false
end

local live, at = holds(KEYS[2]), now()

local revoked
if ARGV[7] == 'ban' then
  if ARGV[9] == '' then
    redis.call('SET', KEYS[4], ARGV[8])
  elseif tonumber(ARGV[9]) > at then
    redis.call('SET', KEYS[4], ARGV[8], 'PXAT', ARGV[9])
  else
    redis.call('DEL', KEYS[4])
    return { {}, false }
  end
elseif ARGV[7] == 'revoke' then
  revoked = math.max(tonumber(ARGV[8]) or at, tonumber(redis.call('GET', KEYS[5])) or 0)
  redis.call('SET', KEYS[5], string.format('%.0f', revoked), 'PX', ARGV[9])
elseif ARGV[7] == 'session' then
  redis.call('SET', KEYS[6], '', 'PX', ARGV[9])
  if redis.call('HGET', KEYS[7], 'user') == ARGV[1] then
    redis.call('HSET', KEYS[7], 'dead', 'over')
  end
end

local stays = {}
for i = 11, #ARGV do
  stays[ARGV[i]] = true
end
local before = revoked or redis.call('GET', KEYS[5])
before = before and (tonumber(before) or math.huge)
local function meant(id, issued, session)
  if ARGV[5] == 'revoked' then
    return before and (tonumber(issued, 36) or -1) < before
  elseif ARGV[5] == 'session' then
    return session == ARGV[6]
  end
  return not stays[id]
end

local wanted = ARGV[1]
if ARGV[2] ~= '' then
  wanted = wanted .. '\0' .. ARGV[2]
end
local ids, ordered = {}, {}
for _, entry in ipairs(entries(KEYS[1], wanted)) do
  local _, id, lease, _, _, _, issued, session = split(entry)
  if id and meant(id, issued, session) then
    ids[#ids + 1] = id
    if live(lease) then
      ordered[#ordered + 1] = entry
    end
  end
end

if #ids > 0 then
  give_order(KEYS[3], ids, ARGV[3], ARGV[4])
end
return { ordered, revoked or false }
