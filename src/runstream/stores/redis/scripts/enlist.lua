-- Enlists the archives of a partition, if it has none yet.
--
-- KEYS  1 archives
-- ARGV  UUID, location, ...
--
-- Replies the archives that the partition requires: {UUID, location, ...}. The first worker's are taken
-- as a whole, so that two workers with different archives never make one set of both.

if call('HLEN', KEYS[1]) == 0 and #ARGV > 0 then
  call('HDEL', KEYS[1], '') -- as in claim.lua: a full server does not refuse this, nor what follows
  call('HSET', KEYS[1], unpack(ARGV))
end
return call('HGETALL', KEYS[1])
