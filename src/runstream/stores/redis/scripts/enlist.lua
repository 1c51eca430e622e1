-- Requires archives of a partition, if it requires none yet.
--
-- KEYS  1 archives
-- ARGV  UUID, location, ...
--
-- Replies the archives that the partition requires: {UUID, location, ...}
--
-- After it: the partition requires all archives of the first worker that came, and no others: the archives of two
-- workers are never mixed.

if call('HLEN', KEYS[1]) == 0 and #ARGV > 0 then
  call('HDEL', KEYS[1], '') -- a full server takes this, and then the rest; see common.lua
  call('HSET', KEYS[1], unpack(ARGV))
end
return call('HGETALL', KEYS[1])
