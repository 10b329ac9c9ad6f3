-- Lists the leases of one place, those that have run out too.
--
-- KEYS[1] leases of the place    KEYS[2] notes of the place
--
-- Answers three texts for each: the lease; its note; if it has run out, when it was last renewed in ms, else nothing.

local at, answer = now(), {}
local leases = redis.call('ZRANGE', KEYS[1], 0, -1, 'WITHSCORES')
for i = 1, #leases, 2 do
  local renewed, text = noted(redis.call('HGET', KEYS[2], leases[i]))
  answer[#answer + 1] = leases[i]
  answer[#answer + 1] = text or ''
  answer[#answer + 1] = tonumber(leases[i + 1]) <= at and (renewed or '0') or ''
end
return answer
