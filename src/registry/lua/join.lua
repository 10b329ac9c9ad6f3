-- Takes up a lease. One that has run out stays so.
--
-- KEYS[1] leases    KEYS[2] info    KEYS[3] names
-- ARGV[1] lease    ARGV[2] how long it holds, in ms    ARGV[3] the node's report    ARGV[4] the node's name
-- ARGV[5] the lease before it, or empty

local at = now()
-- Whatever was still written under the lease before is reaped, also if it was reaped already, or if Redis lost everything.
if ARGV[5] ~= '' then
  redis.call('ZADD', KEYS[1], 0, ARGV[5])
  if redis.call('HSETNX', KEYS[2], ARGV[5], string.format('%.0f:', at)) == 1 then
    redis.call('HSET', KEYS[3], ARGV[5], ARGV[4])
  end
end
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) > at then
  redis.call('ZADD', KEYS[1], at + ARGV[2], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f:', at) .. ARGV[3])
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[4])
end
return 1
