-- Lists the leases, those that have run out too.
--
-- KEYS[1] leases    KEYS[2] info    KEYS[3] names
--
-- Answers three texts for each: the lease; the name of its node; if it has run out, when it was last renewed in ms, else
-- nothing.

local at, answer = now(), {}
local leases = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do
  local lease = leases[i]
  local renewed = ''
  if tonumber(leases[i + 1]) <= at then
    renewed = string.match(redis.call('HGET', KEYS[2], lease) or '', '^(%d+):') or '0'
  end
  answer[#answer + 1] = lease
  answer[#answer + 1] = redis.call('HGET', KEYS[3], lease) or ''
  answer[#answer + 1] = renewed
end
return answer
