-- Notes at a run what became of a fork of it: that it was made, or that it is gone.
--
-- KEYS  1 forks  2 forking  3 meta
-- ARGV  1 run id  2 the fork's id  3 its identity  4 'made' or 'gone'  5 the last number of the run's start
--       6 the cursor at which the fork begins, '' if it is gone
--
-- Replies 1, or 0 if that is noted already, or the run is not there any more
--
-- After it: the fork is no longer in `forking`. It is in `forks` if it was made, where a failover has lost that too: then
-- the run can neither be deleted nor forgotten. The first write is a HDEL: a full server takes it, and then the rest.

local state, identity = string.match(call('HGET', KEYS[1], ARGV[2]) or '', '^(%a+) (%d+) ')
if ARGV[4] == 'gone' then
  if identity ~= ARGV[3] then return 0 end
  call('HDEL', KEYS[1], ARGV[2])
else
  if identity == ARGV[3] and state == 'fork' then return 0 end
  local start = call('HGET', KEYS[3], 'start')
  if not identity and (start or '') ~= '' and string.match(start, '%d+$') ~= ARGV[5] then return 0 end
  if not identity and not start then return 0 end
  call('HDEL', KEYS[1], '')
  call('HSET', KEYS[1], ARGV[2], 'fork ' .. ARGV[3] .. ' ' .. ARGV[6] .. ' ' .. text(clock()))
end
redis.pcall('ZREM', KEYS[2], tag_member(ARGV[1], ARGV[2]))
return 1
