-- Writes anew what a node says of itself, between two of its heartbeats, in one copy of the table. The lease runs on as it did.
--
-- KEYS[1] the table, as for heartbeat
-- ARGV[1] lease    ARGV[2] its report
--
-- Answers 1, or 0 if the lease is not there or buried: then nothing is changed.

local head = string.match(redis.call('HGET', KEYS[1], ARGV[1]) or '', '^([1-9]%d*:%d+:)')
if not head then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], head .. ARGV[2])
return 1
