-- Lets a lease run out now. It is reaped next, by its node or by whoever comes first.
--
-- KEYS[1] leases    KEYS[2] info
-- ARGV[1] lease

if redis.call('ZSCORE', KEYS[1], ARGV[1]) then
  redis.call('ZADD', KEYS[1], 0, ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f:', now()))
end
return 1
