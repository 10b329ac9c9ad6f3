-- Takes up a lease in one place: a shard, or among the nodes. One that has run out there stays so.
--
-- KEYS[1] leases of the place    KEYS[2] notes of the place
-- ARGV[1] lease    ARGV[2] how long it holds, in ms    ARGV[3] the note: in a shard the node's name, among the nodes its report
-- ARGV[4] the lease before it, or empty    ARGV[5] the note for that, if it has none

local at = now()
-- Whatever was still written under the lease before is reaped, also if it was reaped already, or if Redis lost everything.
if ARGV[4] ~= '' then
  redis.call('ZADD', KEYS[1], 0, ARGV[4])
  redis.call('HSETNX', KEYS[2], ARGV[4], note(at, ARGV[5]))
end
local ends = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not ends or tonumber(ends) > at then
  redis.call('ZADD', KEYS[1], at + ARGV[2], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], note(at, ARGV[3]))
end
return 1
