-- Opens a refresh family.
--
-- KEYS[1] the family
-- ARGV[1] user    ARGV[2] claims    ARGV[3] when it expires, in ms    ARGV[4] number of its current token
-- ARGV[5] hash of that
--
-- Answers when it was opened, in ms.

local at = string.format('%.0f', now())
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'claims', ARGV[2], 'expires', ARGV[3], 'number', ARGV[4],
  'current', ARGV[5], 'opened', at)
redis.call('HDEL', KEYS[1], 'previous', 'rotated', 'dead')
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return at
