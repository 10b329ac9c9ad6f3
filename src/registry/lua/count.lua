-- Counts a shard.
--
-- KEYS[1] conns of the shard    KEYS[2] users of the shard    KEYS[3] leases of the shard
--
-- Answers how many entries and how many users it has, and the leases that have run out in it and are not reaped.

return {
  redis.call('ZCARD', KEYS[1]),
  tonumber(redis.call('GET', KEYS[2]) or 0),
  redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now()),
}
