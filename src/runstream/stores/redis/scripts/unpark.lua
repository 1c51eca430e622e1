-- Lets a parked run come due now.
--
-- KEYS  1 due  2 parked
-- ARGV  1 run id
--
-- Replies 1, or 0 if the run is not parked: then nothing was changed.
--
-- After 1: the run is due and not parked. HDEL is the first write: a full server takes it.

if call('HDEL', KEYS[2], ARGV[1]) == 0 then return 0 end
call('ZADD', KEYS[1], text(clock()), ARGV[1])
return 1
