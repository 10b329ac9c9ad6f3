-- Lists what the nodes say of themselves whose leases hold.
--
-- KEYS[1] leases of the nodes    KEYS[2] their notes
--
-- Answers for each: its last heartbeat in ms, a colon, its report.

local answer = {}
for _, lease in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%.0f', now()), '+inf')) do
  answer[#answer + 1] = redis.call('HGET', KEYS[2], lease) or nil
end
return answer
