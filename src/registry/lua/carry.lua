-- Copies keys of the first layout to where this one has them, with their expiry. One that is there already stays as it is.
--
-- KEYS[1] set if that is done for the shard    KEYS[2], KEYS[3] a key and its copy    and so on
--
-- Answers how many it copied: none if it was done before, as by now a ban may have been lifted on purpose.

local copied = 0
if redis.call('EXISTS', KEYS[1]) == 0 then
  for i = 2, #KEYS, 2 do
    copied = copied + redis.call('COPY', KEYS[i], KEYS[i + 1])
  end
end
return copied
