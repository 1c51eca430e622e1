-- Replaces a run's history by one that was refilled beside it.
--
-- KEYS  1 events  2 meta  3 producers  4 keys  5 runs  6 due  7 parked  8 config of the partition
--       9 the session that the run was in  10 the one that it is in  11 refilled events  12 refilled keys
--       13 retire  14 retired  15 lanes  16 tags
--       then for each snapshot: its key, the refilled one; then the keys of the other snapshots that the run had; then
--       the index of each tag
-- ARGV  1 run id  2 the run as it was seen, 'START LAST UPDATED', or '-' for none  3 numbers of refilled entries and of
--       callers' keys, separated by a space
--       4 the last offset that both histories have, 0 for none  5 partitions  6 session  7 updated
--       8 number of snapshots  9 number of other snapshots that the run had  10 number of tags, '-' if those that it has
--         stay; then for each tag that it is to have, or has: its name; '=' and its value, or '-' to remove it
--       then the fields of meta and their values
--
-- Replies {'ok'}
--         {'moved', last cursor}  the run is no longer as it was seen; nothing was changed
--         {'incomplete'}          entries, keys or snapshots of the refilled history are missing; nothing was changed
--
-- After 'ok': the run has the refilled history and no other; no lease on it is in force, though the next one has
-- a higher epoch; it is due and not parked. A producer whose last batch both histories have is remembered: if it
-- resends that, it gets its first reply. Where the run has more than both had, any other batch that was first sent before
-- is `stale`. RENAME, or DEL, is the first write: a full server takes either.

local meta = call('HMGET', KEYS[2], 'start', 'last', 'updated', 'epoch', 'parent', 'by', 'forgotten', 'adopted', 'heard',
  'ahead', 'tags', 'erasures', 'dropped', 'base')
local there = meta[1] and (meta[1] .. ' ' .. meta[2] .. ' ' .. meta[3]) or '-'
if there ~= ARGV[2] then return {'moved', meta[2] or '0-0'} end
local count, keyed = string.match(ARGV[3], '^(%d+) (%d+)$')
local common, snapshots = tonumber(ARGV[4]), tonumber(ARGV[8])
-- what is refilled expires, and a server may have evicted a part of it before
if call('XLEN', KEYS[11]) ~= tonumber(count) or call('HLEN', KEYS[12]) ~= tonumber(keyed) then return {'incomplete'} end
for i = 1, snapshots do
  if call('EXISTS', KEYS[16 + 2 * i]) == 0 then return {'incomplete'} end
end

local function put(refilled, key)
  if call('EXISTS', refilled) == 1 then
    call('RENAME', refilled, key)
    call('PERSIST', key)
  else
    call('DEL', key)
  end
end
put(KEYS[11], KEYS[1])
put(KEYS[12], KEYS[4])
call('DEL', KEYS[15])
local others, tags = 16 + 2 * snapshots, tonumber(ARGV[10])
for i = others + 1, others + ARGV[9] do call('DEL', KEYS[i]) end
for i = 1, snapshots do put(KEYS[16 + 2 * i], KEYS[15 + 2 * i]) end

local lost = lost_at(KEYS[3], meta[9], meta[3], meta[10])
local producer, reply = reply_of(meta[6], meta[1], meta[2], meta[3])
if producer then call('HSET', KEYS[3], producer, reply) end
-- the cursor that a producer's last batch ended at is the third word of its kept reply
local sent = call('HGETALL', KEYS[3])
for i = 1, #sent, 2 do
  local reached = string.match(sent[i + 1], '^%S+ %S+ (%d+)-')
  if not reached or tonumber(reached) > common then call('HDEL', KEYS[3], sent[i]) end
end

call('PERSIST', KEYS[3]) -- up to 0.1.0, a retired run's producers were to expire

local at_fields = 11 + 2 * (tags or 0)
local changes = {}
for i = 1, tags or 0 do
  local name, value, index = ARGV[9 + 2 * i], ARGV[10 + 2 * i], KEYS[others + ARGV[9] + i]
  local former = redis.pcall('HGET', KEYS[16], name)
  changes[i] = {name = name, value = value ~= '-' and string.sub(value, 2) or nil, index = index,
    former = type(former) == 'string' and former or nil}
end
if tags then call('DEL', KEYS[16]) end
for i = 1, #changes do
  local change = changes[i]
  if not index_tag(change.index, ARGV[1], change.former, change.value) then call('HDEL', KEYS[8], 'tagged') end
  if change.value then call('HSET', KEYS[16], change.name, change.value) end
end

call('DEL', KEYS[2])
for i = at_fields, #ARGV, 4000 do
  call('HSET', KEYS[2], unpack(ARGV, i, math.min(i + 3999, #ARGV)))
end
if tags then
  local version = call('HGET', KEYS[2], 'tags')
  if version then call('HSET', KEYS[16], '', version) end
elseif meta[11] then
  call('HSET', KEYS[2], 'tags', meta[11])
end
if meta[4] then call('HSET', KEYS[2], 'epoch', meta[4]) end
if meta[12] and call('HGET', KEYS[2], 'start') == meta[1] then -- it is erased again from what was refilled
  call('HSET', KEYS[2], 'erasures', meta[12], 'dropped', meta[13] or '0')
  local begin = call('HGET', KEYS[2], 'base') or call('HGET', KEYS[2], 'start')
  if meta[14] and parse_cursor(meta[14]) > parse_cursor(begin) then
    call('HSET', KEYS[2], 'base', meta[14])
    if parse_cursor(call('HGET', KEYS[2], 'mark')) < parse_cursor(meta[14]) then
      call('HSET', KEYS[2], 'mark', meta[14], 'trimmed', text((parse_cursor(meta[14]))))
    end
  end
end
if meta[7] then call('HSET', KEYS[2], 'forgotten', meta[7]) end
local ahead = math.max(tonumber(meta[3] or 0) or 0, tonumber(meta[10] or 0) or 0) -- the producers that stay were heard by then
if ahead > tonumber(ARGV[7]) then call('HSET', KEYS[2], 'ahead', text(ahead)) end
local adopted = {} -- as far as both histories have it, as with producers
for after, upto, at in string.gmatch(meta[8] or '', '(%S+) (%d+%-%d+) (%d+)') do
  if parse_cursor(upto) <= common then adopted[#adopted + 1] = after .. ' ' .. upto .. ' ' .. at end
end
if adopted[1] then call('HSET', KEYS[2], 'adopted', table.concat(adopted, ' ')) end
-- who sent what the former history had not is not known, maybe one that stays: its resend is not to be applied again
if parse_cursor(call('HGET', KEYS[2], 'last')) > common then lost = math.max(lost, clock(), tonumber(ARGV[7])) end
note_forgotten(KEYS[2], lost)
if call('EXISTS', KEYS[3]) == 1 then call('HSET', KEYS[2], 'heard', meta[9] or '1') end
if meta[5] and not string.match(meta[5], '^%d+%-') and call('HGET', KEYS[2], 'start') == meta[1] then
  call('HSET', KEYS[2], 'parent', meta[5]) -- of a fork the archive knows it
end
if call('EXISTS', KEYS[4]) == 1 then call('HSET', KEYS[2], 'keyed', '1') end
call('HSETNX', KEYS[8], 'partitions', ARGV[5])
call('ZADD', KEYS[5], ARGV[7], ARGV[1])
call('ZREM', KEYS[9], ARGV[1])
if ARGV[6] ~= '' then call('ZADD', KEYS[10], ARGV[7], ARGV[1]) end
call('ZADD', KEYS[6], text(clock()), ARGV[1])
call('HDEL', KEYS[7], ARGV[1])
call('ZREM', KEYS[13], ARGV[1])
call('ZREM', KEYS[14], ARGV[1])
return {'ok'}
