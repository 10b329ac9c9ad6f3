-- Forgets a lease that has run out, in one place, once nothing is left of its entries there.
--
-- KEYS[1] leases of the place    KEYS[2] notes of the place    KEYS[3] entries of the lease in the shard (among the nodes: any
-- key that nobody writes)
-- ARGV[1] lease

local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if ends and tonumber(ends) <= now() and redis.call('EXISTS', KEYS[3]) == 0 then
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('HDEL', KEYS[2], ARGV[1])
end
return 1
