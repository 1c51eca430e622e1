-- Makes a run due.
--
-- KEYS  1 due  2 meta
-- ARGV  1 run id
--
-- Replies 1, or 0 if there is no such run: it is not made due. A worker would take it off again (see park.lua), but where
--         there is none, it would count as one that waits.
--
-- After 1: the run is due, and all of its lanes are looked at; a claim on it stands.

if call('EXISTS', KEYS[2]) == 0 then return 0 end
call('ZREM', KEYS[1], '') -- a full server takes this, and then the rest; see common.lua
redis.pcall('HDEL', KEYS[2], 'indexed') -- it may be of another type: the worker tells
call('ZADD', KEYS[1], 'NX', text(clock()), ARGV[1])
return 1
