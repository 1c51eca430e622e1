-- Parks a run: notes why, and lets it come due again later, in case the cause has gone by then.
--
-- KEYS  1 meta  2 due  3 parked
-- ARGV  1 run id  2 the run's start  3 reason  4 for how long (microseconds)
--
-- Replies 1, or 0 if the run is not there any more: then nothing was changed.
--
-- After 1: the run is in `parked` with its reason, and comes due again after that time. Nothing was trimmed.

if call('HGET', KEYS[1], 'start') ~= ARGV[2] then return 0 end
call('ZREM', KEYS[2], '') -- a full server takes this, and then the rest; see common.lua
call('ZADD', KEYS[2], text(clock() + tonumber(ARGV[4])), ARGV[1])
call('HSET', KEYS[3], ARGV[1], ARGV[3])
return 1
