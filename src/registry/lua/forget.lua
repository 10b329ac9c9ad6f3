-- Forgets a lease that has run out, once its entries are gone.
--
-- KEYS[1] leases    KEYS[2] info    KEYS[3] names
-- ARGV[1] lease

local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ends and tonumber(ends) <= now() then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
  redis.call('HDEL', KEYS[3], ARGV[1])
end
return 1
