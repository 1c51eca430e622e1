-- Enlists the archives of a partition, if it has none yet.
--
-- KEYS  1 archives
-- ARGV  UUID, location, ...
--
-- Replies the archives that the partition requires: {UUID, location, ...}. The first worker's are taken
-- as a whole, so that two workers with different archives never make one set of both.

if redis.call('HLEN', KEYS[1]) == 0 and #ARGV > 0 then
  redis.call('HDEL', KEYS[1], '') -- as in claim.lua: a full server does not refuse this, nor what follows
  redis.call('HSET', KEYS[1], unpack(ARGV))
end
return redis.call('HGETALL', KEYS[1])
