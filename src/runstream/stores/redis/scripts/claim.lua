-- Claims runs that are due: their scores move into the future, so that no other worker takes them before.
--
-- KEYS  1 due  2 parked  3 config of the partition
-- ARGV  1 claim only what came due up to this time (microseconds), or '' for now  2 how many runs at most
--       3 for how long (microseconds)  4 how far ahead nobody claims or parks for (microseconds)
--
-- Replies {server time, {run id, when it came due, ...}}
--
-- After it: a claimed run comes due again by itself when its claim has passed. A run that would come due further ahead
-- than ARGV[4], or that is not parked and would come due further ahead than twice the longest claim of any worker (which
-- the config notes), was put there by a server whose clock was ahead, and counts as due.

local now = clock()
local limit = now
if ARGV[1] ~= '' and tonumber(ARGV[1]) < now then limit = tonumber(ARGV[1]) end
local due = call('ZRANGEBYSCORE', KEYS[1], '-inf', text(limit), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
local left, noted = ARGV[2] - #due / 2, tonumber(call('HGET', KEYS[3], 'claim') or 0)
local longest = math.max(noted, tonumber(ARGV[3]))
if left > 0 then
  local farthest = now + tonumber(ARGV[4])
  -- from the farthest on, as those that are parked are nearer; and not all of these at each claim
  local ahead = call('ZREVRANGEBYSCORE', KEYS[1], '+inf', '(' .. text(math.min(now + 2 * longest, farthest)),
    'WITHSCORES', 'LIMIT', 0, 200)
  for i = 1, #ahead, 2 do
    if left > 0 and (tonumber(ahead[i + 1]) >= farthest or call('HEXISTS', KEYS[2], ahead[i]) == 0) then
      due[#due + 1], due[#due + 2], left = ahead[i], ahead[i + 1], left - 1
    end
  end
end
-- a full server takes this, and then the rest; see common.lua
call('ZREM', KEYS[1], '')
if longest > noted then call('HSET', KEYS[3], 'claim', text(longest)) end
local until_ = text(now + tonumber(ARGV[3]))
for i = 1, #due, 2 do call('ZADD', KEYS[1], 'XX', until_, due[i]) end
return {text(now), due}
