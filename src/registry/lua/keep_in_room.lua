-- Keeps that a user is to be in a room, once the room's shard lists the user, and forgets what is over.
--
-- KEYS[1] lasting memberships of the user: a hash of room → until when, in ms; empty: until it is undone    KEYS[2] rooms that the
-- user is being put into: a hash of room → the name of that
-- ARGV[1] room    ARGV[2] until when    ARGV[3] how many others there may be    ARGV[4] the name under which the room's shard has
-- listed the user; empty: it has not    ARGV[5] a name that nobody had yet    ARGV[6] how long such names are kept, in ms
--
-- Answers 'kept'; 'full' if there are too many; or 'list' and the name under which the room's shard is to list the user first.

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
  return { 'full' }
end
local name = redis.call('HGET', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], ARGV[1]) or (name and name == ARGV[4]) then
  redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
  redis.call('HDEL', KEYS[2], ARGV[1])
  return { 'kept' }
end
if not name then
  name = ARGV[5]
  redis.call('HSET', KEYS[2], ARGV[1], name)
end
redis.call('PEXPIRE', KEYS[2], ARGV[6])
return { 'list', name }
