-- Claims runs that are due: their scores move into the future, so that no other worker takes them before.
--
-- KEYS  1 due
-- ARGV  1 claim only what came due up to this time (microseconds), or '' for now  2 how many runs at most
--       3 for how long (microseconds)  4 how far ahead nobody claims or parks for (microseconds)
--
-- Replies {server time, {run id, when it came due, ...}}
--
-- After it: a claimed run comes due again by itself when its claim has passed. A run that would come due further ahead
-- than ARGV[4] was put there by a server whose clock was ahead, and counts as due.

local now = clock()
local limit = now
if ARGV[1] ~= '' and tonumber(ARGV[1]) < now then limit = tonumber(ARGV[1]) end
local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', text(limit), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local left = ARGV[2] - #due / 2
if left > 0 then
  local astray = call('ZRANGEBYSCORE', KEYS[1], text(now + ARGV[4]), '+inf', 'WITHSCORES', 'LIMIT', 0, text(left))
  for i = 1, #astray do due[#due + 1] = astray[i] end
end
-- a full server takes this, and then the rest; see common.lua
call('ZREM', KEYS[1], '')
local until_ = text(now + tonumber(ARGV[3]))
for i = 1, #due, 2 do call('ZADD', KEYS[1], 'XX', until_, due[i]) end
return {text(now), due}
