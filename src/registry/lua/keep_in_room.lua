-- Keeps that a user is to be in a room, and forgets what is over.
--
-- KEYS[1] lasting memberships of the user: a hash of room → until when, in ms; empty: until it is undone
-- ARGV[1] room    ARGV[2] until when    ARGV[3] how many others there may be
--
-- Answers 1, or 0 if there are too many.

local at, others = now(), 0
local kept = redis.call('HGETALL', KEYS[1])
for i = 1, #kept, 2 do
  local ends = tonumber(kept[i + 1])
  if ends and ends <= at then
    redis.call('HDEL', KEYS[1], kept[i])
  elseif kept[i] ~= ARGV[1] then
    others = others + 1
  end
end
if others >= tonumber(ARGV[3]) then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return 1
