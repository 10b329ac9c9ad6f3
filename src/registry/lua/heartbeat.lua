-- Renews a node's lease in one copy of the table of leases, or puts it in. The table itself is read by HGETALL behind it, in the same
-- message: to pass through Lua would cost more than all of this.
--
-- KEYS[1] the table: a hash of lease → when it runs out in ms (0: it is buried), a colon, when it was last renewed, a colon, the
-- report of its node; and of `generation`, a name and when it was made, in ms; `schema`; and `beat`, when any node last sent one
-- ARGV[1] lease    ARGV[2] how long it holds from now, in ms    ARGV[3] report    ARGV[4] the table's generation that the node
-- knows, or empty    ARGV[5] 1: the lease is a new one    ARGV[6] the lease before it, or empty    ARGV[7] the name of the generation that a
-- table without one gets    ARGV[8] after how long without any heartbeat Redis has stalled, in ms    ARGV[9] the schema that the node
-- knows    ARGV[10] the level that it speaks
--
-- Answers when this was, in ms, the generation, and 'held', 'buried', 'gone' (not there, in a table that the node knows: it was buried and reaped),
-- 'refused' (the schema is none that the node can serve) or 'unsettled' (there is no schema, and nodes live that will put it back).

local at = now()
local own, generation, beat, schema = unpack(redis.call('HMGET', KEYS[1], ARGV[1], 'generation', 'beat', 'schema'))
local new = ARGV[5] == '1'
if not generation then
  generation = ARGV[7] .. '.' .. text(at)
  redis.call('HSET', KEYS[1], 'generation', generation)
end
local ends = own and tonumber(string.match(own, '^(%d+):'))

local function answer(verdict)
  return { at, generation, verdict }
end

local function is_alone()
  for _, row in ipairs(redis.call('HGETALL', KEYS[1])) do
    local its_end = string.match(row, '^(%d+):%d+:')
    if its_end and tonumber(its_end) > at then
      return false
    end
  end
  return true
end

local mine, theirs = schema_of(ARGV[9]), schema_of(schema)
-- After a loss, who lived before it knows better than who has come since.
local puts_back = not own and not new and generation ~= ARGV[4]
if theirs and (theirs.layout ~= mine.layout or theirs.shards ~= mine.shards) then
  if not puts_back then
    return answer('refused')
  end
  theirs = nil
end
if not theirs then
  if new and not is_alone() then
    return answer('unsettled')
  end
  theirs = mine
  redis.call('HSET', KEYS[1], 'schema', ARGV[9])
elseif theirs.level < mine.level then
  theirs.level, theirs.least = mine.level, math.max(theirs.least, mine.least)
  redis.call('HSET', KEYS[1], 'schema', cjson.encode(theirs))
end
if tonumber(ARGV[10]) < theirs.least then
  return answer('refused')
end

-- Redis has stalled, and nobody could renew a lease: the first node to come, also a new one, prolongs those of all others.
beat = tonumber(beat)
if beat and at - beat > tonumber(ARGV[8]) then
  local rows = redis.call('HGETALL', KEYS[1])
  for i = 1, #rows, 2 do
    local its_end, rest = string.match(rows[i + 1], '^(%d+)(:%d+:.*)$')
    if its_end and tonumber(its_end) > 0 then
      redis.call('HSET', KEYS[1], rows[i], text(at + ARGV[2]) .. rest)
    end
  end
end

if ARGV[6] ~= '' then
  -- Whatever is left under the lease before is reaped.
  local before = redis.call('HGET', KEYS[1], ARGV[6]) or ':' .. text(at) .. ':' .. ARGV[3]
  redis.call('HSET', KEYS[1], ARGV[6], '0' .. string.match(before, '(:.*)$'))
end
local verdict = 'gone'
if ends == 0 then
  verdict = 'buried'
elseif own or new or generation ~= ARGV[4] then
  verdict = 'held'
  redis.call('HSET', KEYS[1], ARGV[1], text(at + ARGV[2]) .. ':' .. text(at) .. ':' .. ARGV[3], 'beat', text(at))
end
return answer(verdict)
