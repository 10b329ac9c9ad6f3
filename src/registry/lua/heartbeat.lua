-- Prolongs a lease that still holds.
--
-- KEYS[1] leases    KEYS[2] info
-- ARGV[1] lease    ARGV[2] how long it holds from now, in ms    ARGV[3] the node's report
--
-- Answers 1 if it held, else 0, and then the leases that have run out and are not reaped.

local at = now()
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local held = ends and tonumber(ends) > at
if held then
  redis.call('ZADD', KEYS[1], at + ARGV[2], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], string.format('%.0f:', at) .. ARGV[3])
end
return { held and 1 or 0, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', at) }
