-- Counts a shard.
--
-- KEYS[1] conns of the shard    KEYS[2] users of the shard    KEYS[3] leases of the shard
-- ARGV[1] the lease of the node that asks, or empty
--
-- Answers how many entries and how many users it has, and the leases that have run out in it and are not reaped; nil if the
-- lease doesn't hold.

if not may_ask(KEYS[3], ARGV[1]) then
  return false
end

return {
  redis.call('ZCARD', KEYS[1]),
  math.max(tonumber(redis.call('GET', KEYS[2]) or 0), 0),
  redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now()),
}
