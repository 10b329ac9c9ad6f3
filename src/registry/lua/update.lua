-- Writes an entry anew if it is there under this lease.
--
-- KEYS[1] conns of the shard
-- ARGV[1] lease    ARGV[2] user, empty for a guest    ARGV[3] id    ARGV[4] the entry
--
-- Answers 1 if it was there, else 0.

for _, entry in ipairs(entries(KEYS[1], ARGV[2] .. '\0' .. ARGV[3])) do
  local _, _, lease = split(entry)
  if lease == ARGV[1] then
    redis.call('ZREM', KEYS[1], entry)
    redis.call('ZADD', KEYS[1], 0, ARGV[4])
    return 1
  end
end
return 0
