-- Makes connections of one lease be in rooms of one shard, or not be. Can be repeated.
--
-- KEYS[1] members of the shard    KEYS[2] rooms of the shard    KEYS[3] members of the lease in the shard    KEYS[3 + i] who holds
-- the room of change i: a hash of lease → how many members it has, and of the empty text → how many users
-- ARGV[1] lease    ARGV[4i - 2…4i + 1] of change i: 1, or 0 to take it out; room; user, empty for a guest; id

local members, rooms, joined, lease = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

local function has(fields)
  return redis.call('ZLEXCOUNT', members, '[' .. fields .. '\0', '(' .. fields .. '\1') > 0
end

for i = 1, #KEYS - 3 do
  local holders = KEYS[3 + i]
  local is_in, room, user, id = unpack(ARGV, 4 * i - 2, 4 * i + 1)
  local of_user = room .. '\0' .. user
  local member = of_user .. '\0' .. id .. '\0' .. lease
  if is_in == '1' then
    local is_first = user ~= '' and not has(of_user)
    if redis.call('ZADD', members, 0, member) == 1 then
      redis.call('HINCRBY', holders, lease, 1)
      if is_first then
        redis.call('HINCRBY', holders, '', 1)
      end
    end
    redis.call('ZADD', rooms, 0, room)
    redis.call('HSET', joined, room .. '\0' .. id, user)
  else
    redis.call('HDEL', joined, room .. '\0' .. id)
    if redis.call('ZREM', members, member) == 1 then
      if redis.call('HINCRBY', holders, lease, -1) <= 0 then
        redis.call('HDEL', holders, lease)
      end
      if user ~= '' and not has(of_user) then
        redis.call('HINCRBY', holders, '', -1)
      end
      if not has(room) then
        redis.call('DEL', holders)
        redis.call('ZREM', rooms, room)
      end
    end
  end
end
return #KEYS - 3
