-- Prolongs a lease in one place: a shard, or among the nodes.
--
-- KEYS[1] leases of the place    KEYS[2] notes of the place
-- ARGV[1] lease    ARGV[2] how long it holds from now, in ms    ARGV[3] the note, as for join    ARGV[4] 1 to take it up again
-- where it has run out or was lost: it holds in another place, and its node will see what is missing here    ARGV[5] 1 to list
-- the leases that hold
--
-- Answers 1 if it holds, else 0; the leases that have run out here and are not reaped; those that hold, or nothing.

local at = now()
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
local held = ARGV[4] == '1' or ends and tonumber(ends) > at
if held then
  redis.call('ZADD', KEYS[1], at + ARGV[2], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], note(at, ARGV[3]))
end
local holding = {}
if ARGV[5] == '1' then
  holding = redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', at), '+inf')
end
return { held and 1 or 0, redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', at), holding }
