-- What the scripts that append share: the entry that is added, and what is noted of it.
--
-- Source: append_fast_path.lua and gather.lua come right after this file, in one chunk with it. It reads and writes
-- nothing by itself, and sets no global.
--
-- KEYS and the first two of ARGV: as in append.lua.

local call, format, match = redis.call, string.format, string.match
local KEYS, ARGV = KEYS, ARGV -- globals are looked up at each use
local run_id, session = ARGV[1], ARGV[2]

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

-- Notes how large the records are by now, and puts the run into the lists, which are right to the second.
--
-- largest, updated  what meta has
-- at                when it is updated
-- is_settled        whether all that came before is archived: otherwise the run is due already
local function note_run(largest, updated, at, is_settled, now)
  if largest and size > (tonumber(largest) or size) then call('HSET', KEYS[2], 'largest', bound(size)) end
  if string.sub(updated, 1, -7) ~= string.sub(at, 1, -7) then
    enlist(KEYS[4], at, run_id)
    if session ~= '' then enlist(KEYS[8], at, run_id) end
  end
  if is_settled then enlist(KEYS[5], 'NX', now, run_id) end
end

