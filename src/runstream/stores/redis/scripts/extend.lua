-- Holds claims for longer.
--
-- KEYS  1 due
-- ARGV  1 for how long from now on (microseconds)  2.. run ids
--
-- After it: those of the runs that are due still do not come due before. What has been settled is not put
-- back. A claim that ran out may be another worker's by now: its time is moved as well, and that does no
-- harm, as it is no right. If it runs out early, a third worker does the same work once more; if late and
-- its worker dies, the run waits for that much longer. What either proves, settle.lua checks.

call('ZREM', KEYS[1], '') -- as in claim.lua: a full server does not refuse this, nor what follows
local until_ = text(clock() + tonumber(ARGV[1]))
for i = 2, #ARGV do call('ZADD', KEYS[1], 'XX', until_, ARGV[i]) end
return 1
