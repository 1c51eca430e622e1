-- Extends claims.
--
-- KEYS  1 due
-- ARGV  1 for how long from now on (microseconds)  2.. run ids
--
-- Replies 1
--
-- After it: those of the runs that are still due do not come due before then. A run that was settled is not put back.
-- A claim that expired may be another worker's by now: its time is moved as well. That does no harm, as a claim is no
-- right: if it ends too early, a third worker does the same work again; if too late and its worker dies, the run waits
-- for that much longer. What either worker proves, settle.lua checks.

call('ZREM', KEYS[1], '') -- a full server takes this, and then the rest; see common.lua
local until_ = text(clock() + tonumber(ARGV[1]))
for i = 2, #ARGV do call('ZADD', KEYS[1], 'XX', until_, ARGV[i]) end
return 1
