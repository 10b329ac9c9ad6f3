-- Makes connections of one lease be in rooms of one shard, or not be. Can be repeated.
--
-- KEYS[1] members of the shard    KEYS[2] rooms of the shard    KEYS[3] members of the lease in the shard    KEYS[3 + i] who holds
-- the room of change i: a hash of lease → how many members it has, and of the empty text → how many users
-- ARGV[1] lease    ARGV[2] backends to tell, empty for none; else JSON: `rooms`, for each change `occupied` and `vacated`, outboxes, and
-- `data`; and `kept`, as `tell` has it    ARGV[4i - 1…4i + 2] of change i: 1, or 0 to take it out; room; user, empty for a guest; id

local members, rooms, joined, lease = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

local told = ARGV[2] ~= '' and cjson.decode(ARGV[2])

-- Tells that the room of change i has its first member, or has none any more.
local function tell_of_room(i, room, is_occupied)
  local of = told and told.rooms[i]
  if of then
    tell(is_occupied and of.occupied or of.vacated, told.kept, is_occupied and 'room.occupied' or 'room.vacated', 'r' .. room, of.data)
  end
end

local function has(fields)
  return redis.call('ZLEXCOUNT', members, '[' .. fields .. '\0', '(' .. fields .. '\1') > 0
end

for i = 1, #KEYS - 3 do
  local holders = KEYS[3 + i]
  local is_in, room, user, id = unpack(ARGV, 4 * i - 1, 4 * i + 2)
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
    if redis.call('ZADD', rooms, 0, room) == 1 then
      tell_of_room(i, room, true)
    end
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
        if redis.call('ZREM', rooms, room) == 1 then
          tell_of_room(i, room, false)
        end
      end
    end
  end
end
return #KEYS - 3
