-- Removes entries of one lease from one shard. Entries that came back under a later lease stay.
--
-- KEYS[1] conns of the shard    KEYS[2] entries of the lease in the shard    KEYS[3] users of the shard
-- KEYS[4] orders to end of the shard    KEYS[5] leases of the shard    KEYS[6] notes of the shard
-- KEYS[6 + i] when the user of entry i was last seen (any key for a guest)
-- ARGV[1] lease    ARGV[2] 'gone': the connections have ended now, and their orders with them; 'passed': the one connection is
-- another by now, and goes unless it has an order; 'reap': the node has ended, and may come back
-- ARGV[3] how long it is kept when users were last seen, in ms; 0: not    ARGV[2 + 2i], ARGV[3 + 2i] user and id of entry i
--
-- Answers how many it removed; nil, and removes nothing, if it is to reap and the lease holds, or if the one has an order.

local ended = now()
if ARGV[2] == 'reap' then
  local ends = redis.call('ZSCORE', KEYS[5], ARGV[1])
  if ends and tonumber(ends) > ended then
    return false
  end
  -- For good, whatever becomes of the clock: a lease that has lost entries holds again only if its node knows of it.
  if ends then
    redis.call('ZADD', KEYS[5], 0, ARGV[1])
  end
  ended = tonumber((noted(redis.call('HGET', KEYS[6], ARGV[1])))) or ended
end
if ARGV[2] == 'passed' and redis.call('HGET', KEYS[4], ARGV[5]) then
  return false
end
local removed = 0
for i = 1, (#ARGV - 3) / 2 do
  local user, id = ARGV[2 + 2 * i], ARGV[3 + 2 * i]
  local elsewhere = false
  redis.call('HDEL', KEYS[2], id)
  for _, entry in ipairs(entries(KEYS[1], user .. '\0' .. id)) do
    local _, _, lease = split(entry)
    if lease ~= ARGV[1] then
      elsewhere = true
    else
      redis.call('ZREM', KEYS[1], entry)
      removed = removed + 1
      if user ~= '' then
        if redis.call('ZLEXCOUNT', KEYS[1], '[' .. user .. '\0', '(' .. user .. '\1') == 0
          and redis.call('DECR', KEYS[3]) < 0 then
          redis.call('SET', KEYS[3], 0)
        end
        -- Not only with the last entry: those that stay may be of a lease that ran out before this one ended.
        if ARGV[3] ~= '0' then
          local seen = math.max(ended, tonumber(redis.call('GET', KEYS[6 + i])) or 0)
          redis.call('SET', KEYS[6 + i], string.format('%.0f', seen), 'PX', ARGV[3])
        end
      end
    end
  end
  if ARGV[2] == 'gone' and not elsewhere then
    redis.call('HDEL', KEYS[4], id)
  end
end
-- Where the count alone was lost, it is right again once nobody is left to be counted.
if removed > 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[3], 0)
end
return removed
