-- The fast path of an append: events of one lane that the run knows, right after the cursor that their writer saw
-- last, with nothing in the way and nothing else asked for.
--
-- Source: the append script is this file, then common.lua, then append.lua, run as one chunk. This file comes first
-- and ends the script itself where the fast path applies: then not even the functions of the other two are made. It
-- takes nothing from them. Where the fast path does not apply, nothing has been written, and append.lua goes on with
-- what this file declares: call, format, match, KEYS, ARGV, run_id, session, producer, seen, lane, of_lane, time, now,
-- stamp, meta, by, before, sign, highest, the functions following, add, enlist, bound and note_gap, and the variables offset,
-- chain, last, at and size, which add works on.
--
-- KEYS, ARGV and what holds after it: as in append.lua.
-- Replies if the events were appended: one text of words separated by single spaces: last cursor, server time
--         (microseconds), the lane's last offset before.
--
-- An agent waits for this at every event, so it is written for speed: a server that has just woken up takes three
-- times as long for each thing that a script touches as it does in a loop.

local call, format, match = redis.call, string.format, string.match
local KEYS, ARGV = KEYS, ARGV -- globals are looked up at each use
local run_id, session, producer, seen, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7]
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

-- The chain of the event that has this record and follows one with that chain.
local function following(chain, record)
  local a, b, c, d = string.byte(record, 2, 5)
  return (chain * 1021 + a * 16777216 + b * 65536 + c * 256 + d) % 8796093022151
end

-- Appends a record after the run's last event, whose offset and chain these are. `last` becomes the new cursor, `at`
-- its offset as text, `size` the size of the largest record so far. With the option NOMKSTREAM it returns false, and
-- writes nothing, if there is no stream.
local offset, chain, last, at
local size = 0
local function add(record, option)
  offset, chain = offset + 1, following(chain, record)
  at = format('%.0f', offset)
  last = at .. format('-%.0f', chain)
  if #record > size then size = #record end
  if option then return call('XADD', KEYS[1], option, last, 'e', record) end
  call('XADD', KEYS[1], last, 'e', record)
end

-- Meta's field `largest` for records of up to that size: a power of two, so that it is seldom written.
local function bound(size)
  local bytes = 4096
  while bytes < size do bytes = 2 * bytes end
  return format('%.0f', bytes)
end

-- Adds the run to one of its partition's sorted sets. One that is damaged, of another type, holds up no run: a worker
-- sets it aside and makes it anew.
local function enlist(set, ...)
  local reply = redis.pcall('ZADD', set, ...)
  if type(reply) == 'table' and not string.find(tostring(reply.err), 'WRONGTYPE', 1, true) then call('ZADD', set, ...) end
end

-- Notes in `gaps:LANE` that a lane has no event between two offsets that lie far apart, so that whoever recovers it need
-- not read what others wrote there. No gap is noted before `since`, where nothing is recovered, and the widest 32 are kept.
local function note_gap(name, before_gap, after_gap, since)
  before_gap, since = tonumber(before_gap), tonumber(since)
  if not since or before_gap < since or after_gap - before_gap <= 64 then return end
  local field, gaps, narrowest = 'gaps:' .. name, {}, nil
  for from, to in string.gmatch((call('HGET', KEYS[2], field) or '') .. format(' %.0f-%.0f', before_gap, after_gap),
    '(%d+)-(%d+)') do
    if tonumber(from) >= since then
      gaps[#gaps + 1] = {from .. '-' .. to, to - from}
      if not narrowest or to - from < gaps[narrowest][2] then narrowest = #gaps end
    end
  end
  if #gaps > 32 then table.remove(gaps, narrowest) end
  for i = 1, #gaps do gaps[i] = gaps[i][1] end
  call('HSET', KEYS[2], field, table.concat(gaps, ' '))
end

-- a batch that was applied before has moved the run on, so it never comes this way again, however late it is resent.
-- What lies behind the last cursor was left by an append that was refused in its midst
if seen == meta[2] and before and session == (meta[3] or '') and not (meta[4] or meta[7] or meta[8] or meta[13]
    or meta[14])
  and not (by and string.sub(by, 1, #producer) ~= producer) and stamp >= (meta[11] or now)
  and stamp >= (meta[15] or stamp) and stamp - now < 1000000  and not call('XRANGE', KEYS[1], '(' .. seen, '+', 'COUNT', 1)[1] then
  offset, chain = match(seen, '^(%d+)-(%d+)$')
  local first = offset + 1
  local seq, first_seq = ARGV[8], ARGV[8]
  if #ARGV > 9 then seq, first_seq = match(seq, '^(%S+) (%S+)$') end
  -- no sign once the lane's seqs have fallen; see seq_in_mark in append.lua
  if sign == '' or tonumber(first_seq) < tonumber(highest) then seq = match(seq, '[^+]+') end
  -- without a stream, which may have been removed, the rest decides
  if add(ARGV[9], 'NOMKSTREAM') then
    for i = 10, #ARGV do add(ARGV[i]) end
    if not meta[6] then
      call('HSET', KEYS[2], 'since:' .. lane, format('%.0f', first))
    elseif first - before > 64 then
      note_gap(lane, before, first, meta[6])
    end
    if meta[12] and size > (tonumber(meta[12]) or size) then call('HSET', KEYS[2], 'largest', bound(size)) end
    -- the lists of runs are kept right to the second
    if string.sub(meta[11], 1, -7) ~= string.sub(stamp, 1, -7) then
      enlist(KEYS[4], stamp, run_id)
      if session ~= '' then enlist(KEYS[8], stamp, run_id) end
    end
    -- if some of what came before is not archived, the run is due already
    if meta[10] == seen then enlist(KEYS[5], 'NX', now, run_id) end
    -- last: what is not in meta has not been appended, and the next append sees to it
    call('HSET', KEYS[2], 'last', last, 'updated', stamp, of_lane, at .. ' ' .. seq,
      'by', producer .. ' ' .. ARGV[4] .. ' ' .. seen .. ' ' .. before)
    return last .. ' ' .. now .. ' ' .. before
  end
end
