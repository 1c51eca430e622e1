-- Appends events of several callers to one run, one of each, as if each had called the append script by itself.
--
-- Source: append_parts.lua, then common.lua, then this file, run as one chunk.
--
-- Callers of one process whose appends wait for each other send them together: what is read and written once for the run
-- is done once for all of them. Each call keeps its own producer and number: one whose caller got no reply is sent again
-- by itself, to the append script, which finds the reply that is kept with the producer.
--
-- KEYS  1 to 7 as in append.lua, then the session, if the calls name one
-- ARGV  1 run id  2 session id, or ''
--       then for each call its arguments 3 to 9 of the append script, as it has them for one event with nothing else
-- Replies, for each call: what append.lua replies, one text; or '' where that is for append.lua to say: nothing was
--         written of this call, and it is to be sent by itself. So is each that would be refused, is sent again, comes
--         from a producer that the run does not know, or from one that has seen what is not there.
--
-- After it: as after these calls of append.lua, in their order.

local replies, calls = {}, (#ARGV - 2) / 7
for i = 1, calls do replies[i] = '' end

local time = call('TIME')
local now = time[1] .. format('%06d', time[2])
local start, former, of_session, lease, retired, by, mark, updated, largest, adopted, cancel, ahead, heard, forgotten =
  unpack(call('HMGET', KEYS[2], 'start', 'last', 'session', 'lease', 'retired', 'by', 'mark', 'updated', 'largest',
    'adopted', 'cancel', 'ahead', 'heard', 'forgotten'))
offset, chain = match(former or '', '^(%d+)-(%d+)$')
local by_producer, by_reply = reply_of(by or nil, start, former, updated)
-- what stands in the way of all of them; a clock that is ahead does, too
local is_free = offset and start and heard and updated and updated <= now and (not ahead or ahead <= now)
  and session == (of_session or '') and not (lease or retired or adopted or cancel) and (not by or by_producer)
  and not call('XRANGE', KEYS[1], '(' .. former, '+', 'COUNT', 1)[1]
if not is_free then return replies end
offset, chain = tonumber(offset), tonumber(chain)
-- what was first sent up to then may be sent again: see may_be_forgotten
local noted = math.max(tonumber(forgotten or 0) or 0, tonumber(call('HGET', KEYS[6], 'forgotten') or 0) or 0)

-- what is kept with the producers, and what is noted of the lanes
local producers, names, lanes, fields = {}, {}, {}, {}
for i = 1, calls do
  local producer, name = ARGV[7 * i - 4], ARGV[7 * i]
  producers[i] = producer
  if not lanes[name] then
    lanes[name] = true
    names[#names + 1] = name
    for _, field in ipairs({'lane:', 'since:', 'lease:'}) do fields[#fields + 1] = field .. name end
  end
end
local sent, kept = {}, call('HMGET', KEYS[3], unpack(producers))
for i = 1, calls do sent[producers[i]] = kept[i] or nil end
if by_producer then sent[by_producer] = by_reply end
local of_lanes = call('HMGET', KEYS[2], unpack(fields))
for i = 1, #names do
  local mark = of_lanes[3 * i - 2] or ''
  local before = match(mark, '^(%d+) ')
  lanes[names[i]] = {mark = mark, before = before, since = of_lanes[3 * i - 1], is_free = before and not of_lanes[3 * i]}
end

-- Whether the run has the event with this cursor, that of one that its writer saw.
local has = {[former] = true}
local function is_there(cursor)
  if has[cursor] == nil then
    local at = match(cursor, '^(%d+)%-')
    local entry = at and call('XRANGE', KEYS[1], at, at)[1]
    has[cursor] = entry and entry[1] == cursor or false
  end
  return has[cursor]
end

-- Whether a call is applied here: its last batch is known, and nothing is to be refused.
local function fits(lane, producer, number, seen, words)
  local sent_at, seen_start = match(words, '^(%S+) (%S+) %S+ %d+ %d+ %S+$')
  local before = sent[producer]
  return sent_at and before and lane.is_free and (tonumber(match(before, '^%d+')) or math.huge) < tonumber(number)
    and heard_at(before) <= tonumber(now) and (sent_at == '-' or sent_at <= now and tonumber(sent_at) > noted)
    and seen_start == start and is_there(seen)
end

-- all checks come first, each as those that are taken before leave it
local taken = {}
for i = 1, calls do
  local producer, number, seen, words, name, _, record = unpack(ARGV, 7 * i - 4, 7 * i + 2)
  if fits(lanes[name], producer, number, seen, words) then
    taken[#taken + 1] = i
    sent[producer] = number
    if #record > size then size = #record end
  end
end
if not taken[1] then return replies end

-- What a user may lack the right to, or what may be of another type, comes before the entries: nothing leaves some of them
-- behind. The first one changes nothing.
call('HSET', KEYS[2], 'last', former)
if by_producer then
  call('HSET', KEYS[3], by_producer, by_reply)
  call('HDEL', KEYS[2], 'by')
else
  call('HSET', KEYS[3], producers[taken[1]], kept[taken[1]])
end
note_run(largest, updated, now, mark == former, now)

local changed, heard_now = {'last', '', 'updated', now}, {}
last = former
for _, i in ipairs(taken) do
  local producer, number, _, _, name, seq, record = unpack(ARGV, 7 * i - 4, 7 * i + 2)
  local lane, before = lanes[name], last
  -- without a stream, which may have been removed, append.lua decides
  if not add(record, 'NOMKSTREAM') then return replies end
  replies[i] = table.concat({number, before, last, '0 0', start, now, lane.before}, ' ')
  heard_now[#heard_now + 1], heard_now[#heard_now + 2] = producer, replies[i]
  if not lane.since then
    lane.since = at
    changed[#changed + 1], changed[#changed + 2] = 'since:' .. name, at
  else
    note_gap(name, lane.before, offset, lane.since)
  end
  lane.before, lane.mark, lane.is_written = at, at .. ' ' .. seq_in_mark(seq, seq, lane.mark), true
end

call('HSET', KEYS[3], unpack(heard_now))
changed[2] = last
for i = 1, #names do
  local lane = lanes[names[i]]
  if lane.is_written then changed[#changed + 1], changed[#changed + 2] = 'lane:' .. names[i], lane.mark end
end
call('HSET', KEYS[2], unpack(changed)) -- last: what is not in meta has not been appended
return replies
