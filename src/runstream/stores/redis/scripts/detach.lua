-- Takes the next step in giving a fork a copy of its own of what it shares with the runs that it comes from.
--
-- KEYS  1 events  2 meta  3 keys  4 copied: the stream that is to take the place of events, of a name that only this caller
--       knows; it expires by itself  5 due  6 lanes  7 rebuilt
-- ARGV  1 run id  2 the fork's start (its last number names this very run)  3 meta's `parent`
--       4 meta's `base`, `erasures` and `rebuilt` as the caller saw them, joined by '/'; '' for one that is not there
--       5 most entries, and bytes, to copy in this step, separated by a space  6 for how long the copy outlives whoever makes
--         it (milliseconds)
--       7 the cursor of the first entry that is to be put in front of those that it has itself, '-' for none  8 the cursor up to
--         which every required archive has what is shared, '' if all of it  9 the size bound of these entries
--       10 'more', if the caller has more of them, or of callers' keys, to give; 'all'; or 'unknown', if lanes may have had events
--          in what is shared that the caller does not know of
--       11 numbers, separated by single spaces, of fields to set if the fork has not been truncated, of entries, and of callers'
--          keys; the fields and their values; the cursor and the record of each entry; each key and the cursor of its event;
--          then for each lane that what is shared has events of: its name; its last offset and seq, separated by a space;
--          the offset of the first one in the copy, or ''
--
-- Replies {'more'}        callers' keys were noted, or entries put into the copy, and there are more
--         {'done'}        it has its own copy, by this call or by a former one
--         {'gone'}        this very run is not there any more
--         {'changed'}     it is not as the caller saw it, or the copy is not whole (any more): look again
--         {'unarchived'}  it has trimmed what it has itself, and what is shared is not archived yet
--         After the last three nothing of the run was changed.
--
-- After 'done': the stream begins with what was put into the copy, all of the callers' keys are the run's own, `base` is the
-- cursor before the first event of its history, and it has no `parent`. No event is any lane's that meta does not know, or
-- `ended` says that there may be others. The run is due, so that the archives give it a copy, too. Who holds a lease on
-- it, or appends, notices nothing.

local meta = all_of(KEYS[2])
if meta['start'] ~= ARGV[2] then return {'gone'} end
if meta['parent'] ~= ARGV[3] then return {'done'} end
local seen = table.concat({meta['base'] or '', meta['erasures'] or '', meta['rebuilt'] or ''}, '/')
if seen ~= ARGV[4] then return {'changed'} end

local begun = parse_cursor(ARGV[2])
local begin = call('XRANGE', KEYS[1], '-', '+', 'COUNT', 1)[1]
local first = begin and parse_cursor(begin[1])
-- whether its own entries, as far as it has them here, go on where what is shared ends
local is_joined = first == begun + 1 or not first and parse_cursor(meta['last']) == begun and not is_tombstone(meta['retired'])
local copied = ARGV[7] ~= '-'
if copied and not is_joined then return {'changed'} end
if not copied and ARGV[8] ~= '' then return {'unarchived'} end
local fields, entries, keys = string.match(ARGV[11], '^(%d+) (%d+) (%d+)$')
local at_entries = 12 + 2 * fields
local at_keys = at_entries + 2 * entries
local at_lanes = at_keys + 2 * keys

local reached = (call('XREVRANGE', KEYS[4], '+', '-', 'COUNT', 1)[1] or {})[1]
for i = at_entries, at_keys - 1, 2 do
  if not reached or parse_cursor(ARGV[i]) > parse_cursor(reached) then
    call('XADD', KEYS[4], ARGV[i], 'e', ARGV[i + 1])
    reached = ARGV[i]
  end
end
call('PEXPIRE', KEYS[4], ARGV[6])
for i = at_keys, at_lanes - 1, 4000 do call('HSET', KEYS[3], unpack(ARGV, i, math.min(i + 3999, at_lanes - 1))) end
if at_lanes > at_keys then call('HSET', KEYS[2], 'keyed', '1') end
if ARGV[10] == 'more' then return {'more'} end
if copied and not reached then return {'changed'} end -- it has expired
if copied then
  local most, bytes = string.match(ARGV[5], '^(%d+) (%d+)$')
  most = math.max(1, math.min(tonumber(most), math.floor(tonumber(bytes) / tonumber(meta['largest'] or 1048576))))
  local own = call('XRANGE', KEYS[1], '(' .. reached, '+', 'COUNT', most)
  for i = 1, #own do
    reached = own[i][1]
    call('XADD', KEYS[4], reached, unpack(own[i][2]))
  end
  if #own == most then return {'more'} end
  local count = parse_cursor(reached) - parse_cursor(ARGV[7]) + 1
  if call('XRANGE', KEYS[4], '-', '+', 'COUNT', 1)[1][1] ~= ARGV[7] or call('XLEN', KEYS[4]) ~= count then
    call('DEL', KEYS[4])
    return {'changed'}
  end
  call('RENAME', KEYS[4], KEYS[1])
  call('PERSIST', KEYS[1])
end

local changes, gone = {}, {'parent', 'indexed', 'peak'}
local function change(field, value) changes[#changes + 1], changes[#changes + 2] = field, value end
local base = meta['base']
if not base then
  for i = 12, at_entries - 1, 2 do
    change(ARGV[i], ARGV[i + 1])
    if ARGV[i] == 'base' then base = ARGV[i + 1] end
  end
end
if ARGV[8] ~= '' then change('mark', ARGV[8]) end
local is_retired = is_tombstone(meta['retired'])
local trimmed = copied and parse_cursor(ARGV[7]) - 1 or begun
if copied then gone[#gone + 1] = 'trimmed' end -- of what was put in front, nothing was
if trimmed > parse_cursor(base) and not is_retired then
  change('trimmed', text(copied and trimmed or math.max(trimmed, tonumber(meta['trimmed'] or 0))))
end
if copied and meta['largest'] then change('largest', text(math.max(tonumber(meta['largest']), tonumber(ARGV[9])))) end
if ARGV[10] == 'unknown' and not is_retired then
  local upto, revision = string.match(meta['ended'] or '0 0', '^(%d+) (%d+)$')
  change('ended', text(math.max(tonumber(upto), begun)) .. ' ' .. revision)
end
for i = is_retired and #ARGV or at_lanes, #ARGV - 1, 3 do
  local lane, last, begins = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local mark, since = meta['lane:' .. lane], meta['since:' .. lane]
  if not mark then
    change('lane:' .. lane, last)
  elseif string.find(mark, '+', 1, true) then
    change('lane:' .. lane, (string.gsub(mark, '%+', ''))) -- nobody knows whether it rises from what is shared on
  end
  local covered = tonumber(string.match(meta['snapshot:' .. lane] or '0', '^%d+'))
  if covered < tonumber(string.match(last, '^%d+')) then
    -- where not all is in the copy, the lane may have events before
    local is_whole = copied and trimmed <= parse_cursor(base)
    local uncovered = math.max(covered + 1, is_whole and tonumber(begins) or parse_cursor(base) + 1)
    if not since or tonumber(since) > uncovered then change('since:' .. lane, text(uncovered)) end
  end
end
call('HDEL', KEYS[2], unpack(gone))
for i = 1, #changes, 4000 do call('HSET', KEYS[2], unpack(changes, i, math.min(i + 3999, #changes))) end
call('DEL', KEYS[6], KEYS[7]) -- a copy that is being made without what was erased has not what is in front now
call('ZADD', KEYS[5], 'NX', text(clock()), ARGV[1])
return {'done'}
