-- Opens a refresh family.
--
-- KEYS[1] the family
-- ARGV[1] user    ARGV[2] claims    ARGV[3] when it expires, in ms    ARGV[4] hash of its current token
--
-- Answers when it was opened, in ms.

local at = string.format('%.0f', now())
redis.call('HSET', KEYS[1], 'user', ARGV[1], 'claims', ARGV[2], 'expires', ARGV[3], 'current', ARGV[4],
  'opened', at)
redis.call('HDEL', KEYS[1], 'previous', 'rotated', 'dead')
redis.call('PEXPIREAT', KEYS[1], ARGV[3])
return at
