-- Writes an entry anew if it is there under this lease, and nothing is held against it.
--
-- KEYS[1] conns of the shard    KEYS[2] ban of the user    KEYS[3] revocation of the user    KEYS[4] revocation of the token
-- KEYS[5] end of the session
-- ARGV[1] lease    ARGV[2] user, empty for a guest    ARGV[3] id    ARGV[4] the entry
--
-- Answers what bars it, or nothing; nil if it is not there.

for _, entry in ipairs(entries(KEYS[1], ARGV[2] .. '\0' .. ARGV[3])) do
  local _, _, lease = split(entry)
  if lease == ARGV[1] then
    local _, _, _, _, _, _, issued = split(ARGV[4])
    local bar = barred(KEYS[2], KEYS[3], KEYS[4], KEYS[5], tonumber(issued, 36))
    if not bar then
      redis.call('ZREM', KEYS[1], entry)
      redis.call('ZADD', KEYS[1], 0, ARGV[4])
    end
    return bar or ''
  end
end
return false
