-- Finds out whether a fork was made, and sees to it that it never is if it was not, however late the request comes.
--
-- KEYS  1 meta  2 deleted
-- ARGV  1 the fork's identity  2 for how long a deletion is remembered (microseconds)
--
-- Replies 1 if it is there, else 0: then it was deleted or forgotten, or is given up from now on
--
-- After 0: the identity is in `deleted`, so fork.lua refuses it. The first write is a ZREMRANGEBYSCORE: a full server takes
-- it, and then the rest.

local identity = string.match(call('HGET', KEYS[1], 'start') or '', '^%d+%-%d+%-(%d+)$')
if identity == ARGV[1] then return 1 end
local now = clock()
call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now - tonumber(ARGV[2])))
call('ZADD', KEYS[2], text(now), ARGV[1])
return 0
