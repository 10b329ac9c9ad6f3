-- Lists what the nodes say of themselves whose leases hold.
--
-- KEYS[1] leases of the nodes    KEYS[2] their notes
-- ARGV[1] the lease of the node that asks, or empty
--
-- Answers for each: its last heartbeat in ms, a colon, its report; nil if the lease doesn't hold.

if not may_ask(KEYS[1], ARGV[1]) then
  return false
end

local answer = {}
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now()), '+inf')) do
  answer[#answer + 1] = redis.call('HGET', KEYS[2], lease) or nil
end
return answer
