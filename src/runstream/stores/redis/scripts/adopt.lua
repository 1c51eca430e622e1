-- Takes into a run's history what an append has left in its stream that was refused in its midst.
--
-- KEYS  1 events  2 meta  3 producers  4 keys  5 runs  6 due  7 config of the partition  8 session
--       then the snapshots that are to go: no meta notes them
-- ARGV  1 run id  2 the run as it was seen, 'START LAST', or '-' for none  3 the cursor before the first of the
--       entries, or '-' where they were acknowledged  4 that of the last one  5 partitions  6 session, or ''  7 number of callers' keys
--       then for each of the callers' keys: the key, the cursor of its event
--       then the fields of meta and their values
--
-- Replies {'ok'}
--         {'moved'}  the run, or the end of its stream, is no longer as it was seen; nothing was changed
--
-- After 'ok': meta's `last` is the stream's last entry, and the run is due and listed. For the window of a producer, meta
-- notes in `adopted` which entries these were, so that whoever sends the same events again gets their cursors and they
-- are not there twice (unless they were acknowledged: then equal ones are new). The last write is that of meta: before it, nothing has been adopted.

local meta = call('HMGET', KEYS[2], 'start', 'last', 'updated', 'by', 'adopted', 'heard')
local there = meta[1] and (meta[1] .. ' ' .. meta[2]) or '-'
if there ~= ARGV[2] or not call('XRANGE', KEYS[1], ARGV[4], ARGV[4])[1]
  or call('XRANGE', KEYS[1], '(' .. ARGV[4], '+', 'COUNT', 1)[1] then return {'moved'} end

local now = text(clock())
if not meta[1] then call('PERSIST', KEYS[2]) end
for i = 9, #KEYS do call('DEL', KEYS[i]) end
local producer, reply = reply_of(meta[4], meta[1], meta[2], meta[3])
if producer then
  call('HSET', KEYS[3], producer, reply)
  call('HDEL', KEYS[2], 'by')
end
call('ZADD', KEYS[5], now, ARGV[1])
if ARGV[6] ~= '' then call('ZADD', KEYS[8], now, ARGV[1]) end
call('ZADD', KEYS[6], 'NX', now, ARGV[1])
call('HSET', KEYS[7], 'partitions', ARGV[5])
local at = 8 + 2 * ARGV[7]
for i = 8, at - 1, 2 do call('HSET', KEYS[4], ARGV[i], ARGV[i + 1]) end
local fields = {'updated', text(math.max(tonumber(now), tonumber(meta[3]) or 0))} -- see lost_at
if ARGV[3] ~= '-' then
  fields[3], fields[4] = 'adopted', (meta[5] and meta[5] .. ' ' or '') .. ARGV[3] .. ' ' .. ARGV[4] .. ' ' .. now
end
if not meta[1] then fields[#fields + 1], fields[#fields + 2] = 'created', now end
if not meta[6] and call('EXISTS', KEYS[3]) == 1 then fields[#fields + 1], fields[#fields + 2] = 'heard', '1' end
for i = at, #ARGV do fields[#fields + 1] = ARGV[i] end
for i = 1, #fields, 4000 do call('HSET', KEYS[2], unpack(fields, i, math.min(i + 3999, #fields))) end
return {'ok'}
