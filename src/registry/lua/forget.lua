-- Forgets a lease that is buried and of which nothing is left, in one copy of the table.
--
-- KEYS[1] the table, as for heartbeat
-- ARGV[1] lease

local row = redis.call('HGET', KEYS[1], ARGV[1])
if row and string.sub(row, 1, 2) == '0:' then
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
