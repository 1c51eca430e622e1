-- Makes a run due, if it is there.
--
-- KEYS  1 due  2 meta
-- ARGV  1 run id
--
-- Replies 1, or 0 if there is no such run (it would stay due for ever). A claim on it stands.

if call('EXISTS', KEYS[2]) == 0 then return 0 end
call('ZREM', KEYS[1], '') -- as in claim.lua: a full server does not refuse this, nor what follows
call('ZADD', KEYS[1], 'NX', text(clock()), ARGV[1])
return 1
