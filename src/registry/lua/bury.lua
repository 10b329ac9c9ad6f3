-- Ends a lease for good, in one copy of the table, if it has run out.
--
-- KEYS[1] the table, as for heartbeat
-- ARGV[1] lease    ARGV[2] 1: whether or not it has run out, as its own node says so    ARGV[3] the report that a lease gets which
-- is not there, so that nobody can take it up; empty: none
--
-- Answers 1 if it is buried, 2 if it holds, 0 if it is not there.

local row = redis.call('HGET', KEYS[1], ARGV[1])
local ends, renewed, report = string.match(row or '', '^(%d+):(%d+):(.*)$')
if not ends then
  if row or ARGV[3] == '' then
    return 0
  end
  redis.call('HSET', KEYS[1], ARGV[1], '0:' .. text(now()) .. ':' .. ARGV[3])
  return 1
end
ends = tonumber(ends)
if ends == 0 then
  return 1
end
local at = now()
if ARGV[2] == '1' then
  renewed = text(at)
elseif ends > at then
  return 2
end
redis.call('HSET', KEYS[1], ARGV[1], '0:' .. renewed .. ':' .. report)
return 1
