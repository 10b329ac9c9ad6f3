-- Removes entries of one lease from one shard. Entries that came back under a later lease stay.
--
-- KEYS[1] conns of the shard    KEYS[2] entries of the lease in the shard    KEYS[3] users of the shard
-- KEYS[4] connections that are not where their ids say    KEYS[5] users that are about to count as offline    KEYS[4 + 2i] when the
-- user of entry i was last seen    KEYS[5 + 2i] the end of connection i
-- ARGV[1] lease    ARGV[2] 'gone': the connections have ended, and their orders with them; 'passed': each is another by now, and
-- goes unless it has been ordered to end; 'reap': their node is taken for dead, and may come back    ARGV[3] when that was, in ms; empty: now    ARGV[4] how long it is kept when users were last seen, in ms;
-- 0: not    ARGV[5] backends to tell, empty for none; else JSON: `closed`, for each entry `outboxes` and `data`; `kept`, as `tell`
-- has it; and `delay`, after how many ms a user is offline, if anybody is told of that    ARGV[4 + 2i], ARGV[5 + 2i] user and id of entry i
--
-- Answers how many it removed, and the order that one of those to be passed on has, which stays.

local ended = tonumber(ARGV[3]) or now()
local told = ARGV[5] ~= '' and cjson.decode(ARGV[5])
local removed = 0
for i = 1, (#ARGV - 5) / 2 do
  local user, id = ARGV[4 + 2 * i], ARGV[5 + 2 * i]
  local order = ARGV[2] == 'passed' and redis.call('GET', KEYS[5 + 2 * i])
  if order then
    return { removed, order }
  end
  local elsewhere = false
  for _, entry in ipairs(entries(KEYS[1], user .. '\0' .. id)) do
    local _, _, lease = split(entry)
    if lease ~= ARGV[1] then
      elsewhere = true
    else
      -- First, as it is what a full Redis refuses: what is not told of is not removed.
      if told then
        local closed = told.closed[i]
        tell(closed.outboxes, told.kept, 'connection.closed', user ~= '' and 'u' .. user or 'c' .. id, closed.data)
      end
      redis.call('ZREM', KEYS[1], entry)
      redis.call('HDEL', KEYS[4], id)
      removed = removed + 1
      if user ~= '' then
        if redis.call('ZLEXCOUNT', KEYS[1], '[' .. user .. '\0', '(' .. user .. '\1') == 0 then
          if told and told.delay then
            redis.call('ZADD', KEYS[5], text(now() + told.delay), user)
          end
          if redis.call('EXISTS', KEYS[3]) == 1 and redis.call('DECR', KEYS[3]) < 0 then
            redis.call('SET', KEYS[3], 0)
          end
        end
        -- Not only with the last entry: those that stay may be of a node that died before this connection ended.
        if ARGV[4] ~= '0' then
          local seen = math.max(ended, tonumber(redis.call('GET', KEYS[4 + 2 * i])) or 0)
          redis.call('SET', KEYS[4 + 2 * i], text(seen), 'PX', ARGV[4])
        end
      end
    end
  end
  redis.call('HDEL', KEYS[2], id)
  if ARGV[2] == 'gone' and not elsewhere then
    redis.call('DEL', KEYS[5 + 2 * i])
  end
end
-- Where the count alone was lost, it is right again once nobody is left to be counted.
if removed > 0 and redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('SET', KEYS[3], 0)
end
return { removed }
