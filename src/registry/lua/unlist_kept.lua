-- Takes users off the list of a room's lasting memberships that have not been listed again since it was read.
--
-- KEYS[1] the list: a hash of user → a name, another one whenever the user is listed
-- ARGV[2i - 1], ARGV[2i] user i and the name that was read

for i = 1, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) == ARGV[i + 1] then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
return #ARGV / 2
