-- Lets a lease run out now, in one place. It is reaped next, by its node or by whoever comes first.
--
-- KEYS[1] leases of the place    KEYS[2] notes of the place
-- ARGV[1] lease

if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.call('ZADD', KEYS[1], 0, ARGV[1])
  local _, text = noted(redis.call('HGET', KEYS[2], ARGV[1]))
  redis.call('HSET', KEYS[2], ARGV[1], note(now(), text or ''))
end
return 1
