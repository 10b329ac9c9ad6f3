-- Removes entries of one lease from one shard. Entries that came back under a later lease stay.
--
-- KEYS[1] conns of the shard    KEYS[2] entries of the lease in the shard    KEYS[3] users of the shard
-- KEYS[4] connections that are not where their ids say    KEYS[3 + 2i] when the user of entry i was last seen    KEYS[4 + 2i] the
-- end of connection i
-- ARGV[1] lease    ARGV[2] 'gone': the connections have ended, and their orders with them; 'passed': each is another by now, and
-- goes unless it has been ordered to end; 'reap': their node is taken for dead, and may come back    ARGV[3] when that was, in ms; empty: now    ARGV[4] how long it is kept when users were last seen, in ms;
-- 0: not    ARGV[3 + 2i], ARGV[4 + 2i] user and id of entry i
--
-- Answers how many it removed, and the order that one of those to be passed on has, which stays.

local ended = tonumber(ARGV[3]) or now()
local removed = 0
for i = 1, (#ARGV - 4) / 2 do
  local user, id = ARGV[3 + 2 * i], ARGV[4 + 2 * i]
  local order = ARGV[2] == 'passed' and redis.call('GET', KEYS[4 + 2 * i])
  if order then
    return { removed, order }
  end
  local elsewhere = false
  redis.call('HDEL', KEYS[2], id)
  for _, entry in ipairs(entries(KEYS[1], user .. '\0' .. id)) do
    local _, _, lease = split(entry)
    if lease ~= ARGV[1] then
      elsewhere = true
    else
      redis.call('ZREM', KEYS[1], entry)
      redis.call('HDEL', KEYS[4], id)
      removed = removed + 1
      if user ~= '' then
        if redis.call('ZLEXCOUNT', KEYS[1], '[' .. user .. '\0', '(' .. user .. '\1') == 0
          and redis.call('EXISTS', KEYS[3]) == 1 and redis.call('DECR', KEYS[3]) < 0 then
          redis.call('SET', KEYS[3], 0)
        end
        -- Not only with the last entry: those that stay may be of a node that died before this connection ended.
        if ARGV[4] ~= '0' then
          local seen = math.max(ended, tonumber(redis.call('GET', KEYS[3 + 2 * i])) or 0)
          redis.call('SET', KEYS[3 + 2 * i], text(seen), 'PX', ARGV[4])
        end
      end
    end
  end
  if ARGV[2] == 'gone' and not elsewhere then
    redis.call('DEL', KEYS[4 + 2 * i])
  end
end
-- Where the count alone was lost, it is right again once nobody is left to be counted.
if removed > 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[3], 0)
end
return { removed }
