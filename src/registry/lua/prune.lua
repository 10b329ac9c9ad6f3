-- Drops the notifications of an outbox that are too old, or too many.
--
-- KEYS[1] the outbox
-- ARGV[1] how long they are kept, in ms    ARGV[2] how many of the oldest are too many
--
-- Answers how many were too old, how many too many, how many are left, and how old the oldest of these is, in ms.

local at = now()
local expired = redis.call('XTRIM', KEYS[1], 'MINID', text(math.max(at - ARGV[1], 0)))
local excess = 0
if ARGV[2] ~= '0' then
  excess = redis.call('XTRIM', KEYS[1], 'MAXLEN', math.max(redis.call('XLEN', KEYS[1]) - ARGV[2], 0))
end
local oldest = redis.call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local age = oldest and math.max(at - tonumber(string.match(oldest[1], '^%d+')), 0) or 0
return { expired, excess, redis.call('XLEN', KEYS[1]), age }
