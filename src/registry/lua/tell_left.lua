-- Tells which users are offline: those whose last connection has been gone for as long as that takes.
--
-- KEYS[1] users that are about to count as offline    KEYS[2] conns of the shard
-- ARGV[1] what the keys begin with that say when users were last seen    ARGV[2] how many users at the most    ARGV[3] backends to tell:
-- JSON: `offline`, outboxes, and `kept`, as `tell` has it
--
-- Answers how many it looked at.

local told, at = cjson.decode(ARGV[3]), now()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', text(at), 'LIMIT', 0, ARGV[2])
for _, user in ipairs(due) do
  if redis.call('ZLEXCOUNT', KEYS[2], '[' .. user .. '\0', '(' .. user .. '\1') == 0 then
    tell(told.offline, told.kept, 'user.offline', 'u' .. user, nil, redis.call('GET', ARGV[1] .. user) or text(at))
  end
  redis.call('ZREM', KEYS[1], user)
end
return #due
