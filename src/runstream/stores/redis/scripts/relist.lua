-- Puts a run back into the sets of its partition that it is missing from.
--
-- KEYS  1 meta  2 runs  3 session  4 due  5 retired
-- ARGV  1 run id  2 the run's start (it names this very run)  3 its session, or ''
--       4 'due' if it has something to archive or to retire, 'retired' if it is a tombstone, or ''
--
-- Replies 1, or 0 if that run is not there any more: then nothing was changed.
--
-- After 1: the run is listed, in its session too, by its last update, and in `due` or `retired`. Where it was before,
-- it stands as it did. If it is made due, all of its lanes are looked at.

local meta = call('HMGET', KEYS[1], 'start', 'updated')
if meta[1] ~= ARGV[2] then return 0 end
call('ZREM', KEYS[4], '') -- a full server takes this, and then the rest; see common.lua
call('ZADD', KEYS[2], 'NX', meta[2], ARGV[1])
if ARGV[3] ~= '' then call('ZADD', KEYS[3], 'NX', meta[2], ARGV[1]) end
if ARGV[4] == 'due' then
  call('HDEL', KEYS[1], 'indexed')
  call('ZADD', KEYS[4], 'NX', text(clock()), ARGV[1])
end
if ARGV[4] == 'retired' then call('ZADD', KEYS[5], 'NX', text(clock()), ARGV[1]) end
return 1
