-- Raises the level at which all nodes write, in one copy of the table of leases, if every node that may live speaks it. A
-- node that joins later has to speak it too. Never lowers it.
--
-- KEYS[1] the table, as for heartbeat
-- ARGV[1] the level
--
-- Answers 1 if the table has this level, or a higher one; 0 if a node does not speak it, or there is no schema.

local schema, level = schema_of(redis.call('HGET', KEYS[1], 'schema')), tonumber(ARGV[1])
if not schema then
  return 0
end
if schema.level >= level then
  return 1
end
local at = now()
for _, row in ipairs(redis.call('HGETALL', KEYS[1])) do
  local ends, report = string.match(row, '^([1-9]%d*):%d+:(.*)$')
  if ends then
    local is_json, read = pcall(cjson.decode, report)
    if is_json and type(read) == 'table' then
      -- Also of one that is late, which may go on.
      if (tonumber(read.l) or 1) < level then
        return 0
      end
    elseif tonumber(ends) > at then
      return 0
    end
  end
end
schema.level, schema.least = level, math.max(schema.least, level)
redis.call('HSET', KEYS[1], 'schema', cjson.encode(schema))
return 1
