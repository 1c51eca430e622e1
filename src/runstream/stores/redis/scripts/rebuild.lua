-- Takes the next step in making a run's stream anew without the content that was erased, and without what lies before the
-- history's new beginning: a stream keeps the bytes of entries that are taken out of it.
--
-- KEYS  1 events  2 meta  3 erasures  4 rebuilt
-- ARGV  1 the run's start (its last number names this very run)  2 the number of the last request in erasures
--       3 most entries, and bytes, to copy in this step, separated by a space
--       4 for how long the copy outlives whoever makes it (milliseconds)
--       5 'FIRST-LAST,FIRST-LAST,…', the offsets to be erased since the stream was made anew last, rising, '-LAST' being left
--         out where it is the same one
--
-- Replies {'more'}             entries were copied, and more are to be
--         {'done'}             the stream is as it is to be
--         {'gone'}             this very run is not there any more
--         {'changed'}          another request has come since
--         After the last two nothing was changed.
--
-- Any number of workers may take the steps, and each may be killed after any: the copy shows how far it is. It is made for
-- one request, the last one, which erasures has in `copying`. What was to be erased is in it as the record of an erased
-- event, one byte, at its own id. The last step copies what came meanwhile and puts the copy in the stream's place:
-- meta has 'NUMBER TIME' in `rebuilt` then. The first write takes memory, so that a full server refuses the step.

local meta = call('HMGET', KEYS[2], 'start', 'erasures', 'base', 'largest', 'rebuilt')
if meta[1] ~= ARGV[1] then return {'gone'} end
if meta[2] ~= ARGV[2] then return {'changed'} end
if tonumber(string.match(meta[5] or '0', '^%d+')) >= tonumber(ARGV[2]) then return {'done'} end
if call('HGET', KEYS[3], 'copying') ~= ARGV[2] then
  call('HSET', KEYS[3], 'copying', ARGV[2])
  call('DEL', KEYS[4])
end

local most, bytes = string.match(ARGV[3], '^(%d+) (%d+)$')
most = math.max(1, math.min(tonumber(most), math.floor(tonumber(bytes) / tonumber(meta[4] or 1048576))))
local after = (call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1] or {})[1] or meta[3]
local entries = call('XRANGE', KEYS[1], after and '(' .. after or '-', '+', 'COUNT', most)
local next_span = string.gmatch(ARGV[5], '(%d+)%-?(%d*)')
local first, upto = next_span()
for i = 1, #entries do
  local offset = parse_cursor(entries[i][1])
  while first and offset > tonumber(upto ~= '' and upto or first) do first, upto = next_span() end
  if first and offset >= tonumber(first) then
    call('XADD', KEYS[4], entries[i][1], 'e', string.char(0))
  else
    call('XADD', KEYS[4], entries[i][1], unpack(entries[i][2]))
  end
end
call('PEXPIRE', KEYS[4], ARGV[4])
if #entries == most then return {'more'} end

if call('EXISTS', KEYS[4]) == 1 then
  -- what was trimmed meanwhile
  local begin = call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
  if begin then call('XTRIM', KEYS[4], 'MINID', begin[1]) end
  call('RENAME', KEYS[4], KEYS[1])
  call('PERSIST', KEYS[1])
else
  call('DEL', KEYS[1])
end
call('HDEL', KEYS[3], 'copying')
call('HSET', KEYS[2], 'rebuilt', ARGV[2] .. ' ' .. text(clock()))
return {'done'}
