-- The fast path of an append: events of one lane that the run knows, right after the cursor that their writer saw
-- last, with nothing in the way and nothing else asked for; or one event that has a key, with a snapshot of its lane
-- that covers all of that.
--
-- Source: the append script is append_parts.lua, this file, then common.lua, then append.lua, run as one chunk. This file
-- ends the script itself where the fast path applies: then not even the functions of the last two are made. It takes
-- nothing from them. Where the fast path does not apply, nothing has been written, and append.lua goes on with what is
-- declared in the first and here: producer, seen, lane, of_lane, time, now, stamp, meta, by, before, sign,
-- highest, save_snapshot and others.
--
-- KEYS, ARGV and what holds after it: as in append.lua.
-- Replies if the events were appended: one text of words separated by single spaces: last cursor, server time
--         (microseconds), the lane's last offset before; with a snapshot, what append.lua replies.
--
-- An agent waits for this at every event, so it is written for speed: a server that has just woken up takes three
-- times as long for each thing that a script touches as it does in a loop.

local producer, seen, lane = ARGV[3], ARGV[5], ARGV[7]
local of_lane = 'lane:' .. lane

local time = call('TIME')
local now = time[1] .. format('%06d', time[2])
-- when its producer is heard: not before it sent this. A process's clock may be a little ahead of the server's
local stamp = match(ARGV[6], '^%S+')
if stamp < now then stamp = now end
local meta = call('HMGET', KEYS[2], 'start', 'last', 'session', 'lease', of_lane, 'since:' .. lane,
  'lease:' .. lane, 'retired', 'by', 'mark', 'updated', 'largest', 'adopted', 'cancel', 'ahead')
local by = meta[9]
-- the lane's last offset and seq; nil also if they are damaged
local before, sign, highest = match(meta[5] or '', '^(%d+) (%+?)(%S+)$')

-- Puts a snapshot into its hash.
--
-- key         the hash
-- first       where its part of ARGV begins, from its meta field on
-- at_records  where the records begin
local function save_snapshot(key, first, at_records, covered, revision)
  local at_sets = first + 11
  local at_removes = at_sets + 2 * ARGV[first + 8]
  local at_copies = at_removes + ARGV[first + 9]
  if ARGV[first + 7] == 'whole' then call('DEL', key) end
  for i = at_removes, at_copies - 1, 4000 do call('HDEL', key, unpack(ARGV, i, math.min(i + 3999, at_copies - 1))) end
  for i = at_sets + 4000, at_removes - 1, 4000 do
    call('HSET', key, unpack(ARGV, i, math.min(i + 3999, at_removes - 1))) -- Lua unpacks no more than some 8000 values
  end
  for i = at_copies, at_copies + 3 * ARGV[first + 10] - 1, 3 do
    local record, begin, length = match(ARGV[i + 1], '^(%d+) (%d+) (%d+)$')
    local value = string.sub(ARGV[at_records + record - 1], begin, begin + length - 1)
    call('HSET', key, ARGV[i], ARGV[i + 2] .. value)
  end
  call('HSET', key, 'offset', covered, 'revision', revision, 'token', ARGV[first + 3], 'checksum', ARGV[first + 6],
    'saved', now, unpack(ARGV, at_sets, math.min(at_sets + 3999, at_removes - 1)))
end

-- the words of one event with a key, and a snapshot
local seen_with_snapshot = seen == '-' and match(ARGV[6], ' (%S+) %- %- %- 1 1 0 1 0 0 0$')
seen = seen_with_snapshot or seen
-- a batch that was applied before has moved the run on, so it never comes this way again, however late it is resent.
-- What lies behind the last cursor was left by an append that was refused in its midst
local is_free = seen == meta[2] and before and session == (meta[3] or '') and not (meta[4] or meta[7] or meta[8]
    or meta[13] or meta[14])
  and not (by and string.sub(by, 1, #producer) ~= producer) and stamp >= (meta[11] or now)
  and stamp >= (meta[15] or stamp) and stamp - now < 1000000 and not call('XRANGE', KEYS[1], '(' .. seen, '+', 'COUNT', 1)[1]
if is_free then
  offset, chain = match(seen, '^(%d+)-(%d+)$')
  local first = offset + 1
  local seq, first_seq = ARGV[8], ARGV[8]
  if #ARGV > 9 then seq, first_seq = match(seq, '^(%S+) (%S+)') end
  -- no sign once the lane's seqs have fallen; see seq_in_mark in common.lua
  if sign == '' or tonumber(first_seq) < tonumber(highest) then seq = match(seq, '[^+]+') end
  if seen_with_snapshot then
    local keys_key, snapshot_key, lanes_key = unpack(KEYS, #KEYS - 2)
    local key, creation = match(ARGV[9], '^1 %S+ %- (.+)$'), match(meta[1] or '', '^%d+%-(%d+)$') -- of no fork
    local noted = call('HMGET', KEYS[2], 'keyed', 'heard', 'dropped', 'indexed')
    local saved = call('HMGET', snapshot_key, 'token', 'revision')
    local sent = call('HGET', KEYS[3], producer)
    -- the key is new, the producer known; the snapshot is made from the latest one, and covers all of its lane
    local fits = key and noted[1] and noted[2] and call('EXISTS', keys_key) == 1 and not call('HGET', keys_key, key)
      and (tonumber(match(sent or '', '^%d+')) or math.huge) < tonumber(ARGV[4])
      and ARGV[10] == 'snapshot:' .. lane and saved[1] == ARGV[12] and match(saved[2] or '', '^%d+$') and #saved[2] <= 15
      and creation == ARGV[15] and tonumber(before) <= tonumber(ARGV[14])
    if fits and add(ARGV[#ARGV], 'NOMKSTREAM') then
      local revision = format('%.0f', math.max(tonumber(saved[2]), tonumber(noted[3] or 0)) + 1)
      local reply = {ARGV[4], seen, last, revision, at, meta[1], now, before}
      if meta[6] then call('HDEL', KEYS[2], 'since:' .. lane) end
      note_run(meta[12], meta[11], stamp, meta[10] == seen, now)
      if noted[4] and type(redis.pcall('ZADD', lanes_key, 'inf', 'since:' .. lane, 0, ARGV[10])) ~= 'number' then
        call('HDEL', KEYS[2], 'indexed') -- the set is of another type: the worker makes it anew
      end
      call('HSET', keys_key, key, last)
      save_snapshot(snapshot_key, 10, #ARGV, at, revision)
      local answer = table.concat(reply, ' ')
      reply[7] = stamp
      call('HSET', KEYS[3], producer, table.concat(reply, ' '))
      call('HSET', KEYS[2], 'last', last, 'updated', stamp, of_lane, at .. ' ' .. seq,
        ARGV[10], at .. ' ' .. revision .. ' ' .. ARGV[13], 'by', producer)
      return answer
    end
  elseif add(ARGV[9], 'NOMKSTREAM') then -- without a stream, which may have been removed, the rest decides
    for i = 10, #ARGV do add(ARGV[i]) end
    if not meta[6] then
      call('HSET', KEYS[2], 'since:' .. lane, format('%.0f', first))
    elseif first - before > 64 then
      note_gap(lane, before, first, meta[6])
    end
    note_run(meta[12], meta[11], stamp, meta[10] == seen, now)
    -- last: what is not in meta has not been appended, and the next append sees to it
    call('HSET', KEYS[2], 'last', last, 'updated', stamp, of_lane, at .. ' ' .. seq,
      'by', producer .. ' ' .. ARGV[4] .. ' ' .. seen .. ' ' .. before)
    return last .. ' ' .. now .. ' ' .. before
  end
end
