-- Removes entries of one lease from one shard. Entries that came back under a later lease stay.
--
-- KEYS[1] conns of the shard    KEYS[2] entries of the lease in the shard    KEYS[3] users of the shard
-- KEYS[4] orders to end of the shard    KEYS[4 + i] when the user of entry i was last seen (any key for a guest)
-- ARGV[1] lease    ARGV[2] when the connections ended, in ms; empty: now    ARGV[3] how long that is kept, in ms; 0: not
-- ARGV[4] 1 to forget the orders too    ARGV[3 + 2i], ARGV[4 + 2i] user and id of entry i
--
-- Answers how many it removed.

local ended = tonumber(ARGV[2]) or now()
local removed = 0
for i = 1, (#ARGV - 4) / 2 do
  local user, id = ARGV[3 + 2 * i], ARGV[4 + 2 * i]
  local elsewhere = false
  redis.call('HDEL', KEYS[2], id)
  for _, entry in ipairs(entries(KEYS[1], user .. '\0' .. id)) do
    local _, _, lease = split(entry)
    if lease ~= ARGV[1] then
      elsewhere = true
    else
      redis.call('ZREM', KEYS[1], entry)
      removed = removed + 1
      if user ~= '' and redis.call('ZLEXCOUNT', KEYS[1], '[' .. user .. '\0', '(' .. user .. '\1') == 0 then
        redis.call('DECR', KEYS[3])
        if ARGV[3] ~= '0' then
          local seen = math.max(ended, tonumber(redis.call('GET', KEYS[4 + i]) or 0))
          redis.call('SET', KEYS[4 + i], string.format('%.0f', seen), 'PX', ARGV[3])
        end
      end
    end
  end
  if ARGV[4] == '1' and not elsewhere then
    redis.call('HDEL', KEYS[4], id)
  end
end
return removed
