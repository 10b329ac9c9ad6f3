-- Writes anew what a node says of itself, between two of its heartbeats. The lease runs on as it did.
--
-- KEYS[1] leases of the nodes    KEYS[2] their notes
-- ARGV[1] lease    ARGV[2] its report
--
-- Answers 1, or 0 if the lease doesn't hold: then nothing is changed.

if not holds(KEYS[1])(ARGV[1]) then
  return 0
end
local renewed = noted(redis.call('HGET', KEYS[2], ARGV[1])) or now()
redis.call('HSET', KEYS[2], ARGV[1], note(renewed, ARGV[2]))
return 1
