-- Sets a run aside: notes why, and lets it come due again later, in case the cause has gone by then.
--
-- KEYS  1 meta  2 due  3 parked
-- ARGV  1 run id  2 the run's start  3 reason  4 for how long (microseconds)
--
-- Replies 1, or 0 if the run is not there any more. Nothing is trimmed.

if redis.call('HGET', KEYS[1], 'start') ~= ARGV[2] then return 0 end
local now = redis.call('TIME')
redis.call('ZREM', KEYS[2], '') -- as in claim.lua: a full server does not refuse this, nor what follows
redis.call('ZADD', KEYS[2], string.format('%.0f', now[1] * 1000000 + now[2] + tonumber(ARGV[4])), ARGV[1])
redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
return 1
