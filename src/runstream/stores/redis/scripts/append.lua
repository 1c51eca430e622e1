-- Appends events to a run, saves a snapshot with them, or does either alone: one atomic step.
--
-- KEYS  1 events  2 meta  3 producers  4 runs  5 due  6 config of the partition  7 deleted
--       then the session, if the batch names one, then the snapshot, if there is one
-- ARGV  1 run id  2 session id, or ''
--       3 words, separated by single spaces: partitions; first chain, for a run that is new; producer; its
--         batch number; when it was first sent (microseconds), or '-'; for how long a silent producer is
--         remembered (microseconds); the history (its first chain) and the place in it that the writer saw
--         last, or '-' twice; expected offset, or '-'; status, or '-'; number of lanes; number of snapshots
--       then for each lane: its name, the indexes in the batch of its first and last event
--       then for the snapshot: its meta field, mode ('replace', 'compare'), the token that it is made from
--         ('' for none), its own token, the offset that its writer covers and the chain of the start of the
--         history that it covers there, its checksum, 'whole' or 'difference', number of fields to set, to
--         remove; fields and values; fields
--       then the records
--
-- Replies {'ok', first offset, last cursor, revision, covered offset, start, server time,
--          former last offset of each lane}
--         {'stale', server time}    too old to tell whether it was applied before, nothing written
--         {'lost', offset}          the run stands before what the writer saw, nothing written
--         {'diverged'}              the run has another history there, nothing written
--         {'partitions', n}         the namespace has n, nothing written
--         {'conflict', offset}      the run stands elsewhere than expected, nothing written
--         {'archived', offset}      the snapshot needs events that were trimmed up to there, nothing written
--         {'snapshot', revision}    compare: another snapshot was saved since, nothing written
--         {'whole'}                 the difference does not apply, send the whole, nothing written
--
-- After 'ok': offsets are dense; the id of entry n is n-chain(n); meta's `last` is the last entry's id;
-- the run is due. A batch that its producer has sent before gets its first reply and changes nothing.
-- All checks come before the first write, and the first write is the one that can fail (an XADD).

local call, format = redis.call, string.format

local function text(number) return format('%.0f', number) end

local function place(cursor)
  local offset, chain = string.match(cursor, '^(%d+)-(%d+)$')
  return tonumber(offset), tonumber(chain)
end

local run_id, session = ARGV[1], ARGV[2]
local partitions, new_chain, producer, batch, sent_at, window, history, seen, expected, status, lanes, snapshots =
  string.match(ARGV[3], '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
batch, window = tonumber(batch), tonumber(window)

-- a resend: the first reply is kept with the producer, its parts separated by spaces
local time = call('TIME')
local microseconds = time[1] * 1000000 + time[2]
local now = text(microseconds)
local sent = call('HGET', KEYS[3], producer)
local sent_batch = sent and tonumber(string.match(sent, '^%S+')) or 0
if sent_batch == batch then
  call('HSET', KEYS[3], producer, sent) -- a write, so that WAIT covers the first one
  local reply = {}
  for part in string.gmatch(sent, '%S+') do reply[#reply + 1] = part end
  reply[1] = 'ok'
  return reply
end
if sent_batch > batch or (sent_at ~= '-' and microseconds - tonumber(sent_at) > window) then
  return {'stale', now}
end

lanes = tonumber(lanes)
local first_lane = lanes > 0 and ARGV[4] or ''
local meta = call('HMGET', KEYS[2], 'start', 'last', 'session', 'lane:' .. first_lane, 'since:' .. first_lane)
local start = meta[1] or ('0-' .. new_chain)
local offset, chain = place(meta[2] or start)
local former = offset

if seen ~= '-' and seen ~= meta[2] then
  local seen_offset = place(seen)
  if not meta[1] or string.match(start, '%d+$') ~= history then
    -- deleted, by somebody who was allowed to, or lost, and perhaps created anew by others
    if not call('ZSCORE', KEYS[7], history) then return {'lost', text(meta[1] and offset or 0)} end
  elseif offset < seen_offset then
    return {'lost', text(offset)}
  else
    local entry = call('XRANGE', KEYS[1], text(seen_offset), text(seen_offset))[1]
    local there = entry and entry[1]
    if not there then
      local mark = call('HGET', KEYS[2], 'mark') or start
      -- trimmed: then it was archived, and the mark is there or beyond
      if place(mark) <= seen_offset then there = mark end
    end
    if there and there ~= seen then return {'diverged'} end
  end
end

if not meta[1] then
  local has = call('HGET', KEYS[6], 'partitions')
  if has and has ~= partitions then return {'partitions', has} end
end
if expected ~= '-' and tonumber(expected) ~= offset then return {'conflict', text(offset)} end

-- what lies before this batch in each lane, to tell whether a writer knows its lane without a hole, and the
-- first event of each lane that no snapshot of it covers: from there on it is recovered
local reply = {'ok', text(former + 1), '', '0', '0', start, now}
local changed = {'last', '', 'updated', now}
local function change(field, value)
  changed[#changed + 1] = field
  changed[#changed + 1] = value
end
local at = 4
local lane_last = {}
for i = 1, lanes do
  local lane = ARGV[at]
  local known = i == 1 and {meta[4], meta[5]} or call('HMGET', KEYS[2], 'lane:' .. lane, 'since:' .. lane)
  reply[7 + i] = known[1] or '0'
  lane_last[lane] = former + tonumber(ARGV[at + 2])
  change('lane:' .. lane, text(lane_last[lane]))
  if not known[2] then change('since:' .. lane, text(former + tonumber(ARGV[at + 1]))) end
  at = at + 3
end

local snapshot = nil
if snapshots == '1' then
  snapshot = {
    key = KEYS[#KEYS],
    field = ARGV[at], mode = ARGV[at + 1], base = ARGV[at + 2], token = ARGV[at + 3],
    covers = tonumber(ARGV[at + 4]), history = ARGV[at + 5], checksum = ARGV[at + 6], form = ARGV[at + 7],
    sets = tonumber(ARGV[at + 8]), removes = tonumber(ARGV[at + 9]), at = at + 10,
  }
  at = snapshot.at + 2 * snapshot.sets + snapshot.removes
  local saved = call('HMGET', snapshot.key, 'token', 'revision')
  snapshot.revision = tonumber(saved[2] or 0) + 1
  if (saved[1] or '') ~= snapshot.base then
    if snapshot.mode == 'compare' then return {'snapshot', text(snapshot.revision - 1)} end
    if snapshot.form == 'difference' then return {'whole'} end
  end
  snapshot.lane = string.match(snapshot.field, '^snapshot:(.*)$')
  local before, since = offset, nil
  if snapshot.lane then
    local known = call('HMGET', KEYS[2], 'lane:' .. snapshot.lane, 'since:' .. snapshot.lane)
    before, since = tonumber(known[1] or 0), tonumber(known[2] or nil)
  end
  -- it covers all, if all that came before this batch is covered: in the run, or in its lane
  local base, first_chain = string.match(start, '^(%d+)-(%d+)$')
  snapshot.covered = tonumber(base)
  -- what the writer knows of a run of this name that was deleted since says nothing of this one
  if snapshot.history == first_chain then snapshot.covered = snapshot.covers end
  if before <= snapshot.covered then
    snapshot.covered = offset + (#ARGV - at + 1)
  else
    -- what it does not cover must be there to be recovered
    local trimmed = tonumber(call('HGET', KEYS[2], 'trimmed') or 0)
    local needs = snapshot.covered + 1
    if snapshot.lane then needs = math.max(needs, since or needs) end
    if needs <= trimmed then return {'archived', text(trimmed)} end
  end
end

-- from here on nothing may refuse
for i = at, #ARGV do
  local record = ARGV[i]
  local a, b, c, d = string.byte(record, 2, 5)
  chain = (chain * 1021 + a * 16777216 + b * 65536 + c * 256 + d) % 8796093022151
  offset = offset + 1
  call('XADD', KEYS[1], format('%.0f-%.0f', offset, chain), 'e', record)
end
local last = format('%.0f-%.0f', offset, chain)
reply[3], changed[2] = last, last

if snapshot then
  local covered = snapshot.covered
  if snapshot.form == 'whole' then call('DEL', snapshot.key) end
  at = snapshot.at
  for _ = 1, snapshot.sets do
    call('HSET', snapshot.key, ARGV[at], ARGV[at + 1])
    at = at + 2
  end
  for _ = 1, snapshot.removes do
    call('HDEL', snapshot.key, ARGV[at])
    at = at + 1
  end
  call('HSET', snapshot.key, 'offset', text(covered), 'revision', text(snapshot.revision),
    'token', snapshot.token, 'checksum', snapshot.checksum, 'saved', now)
  change(snapshot.field, text(covered) .. ' ' .. text(snapshot.revision) .. ' ' .. snapshot.token)
  reply[4], reply[5] = text(snapshot.revision), text(covered)
end

if not meta[1] then
  change('start', start)
  change('created', now)
  call('HSET', KEYS[6], 'partitions', partitions)
end
if status ~= '-' then
  change('status', status)
elseif not meta[1] then
  change('status', 'running')
end
if session ~= '' and (meta[3] or '') == '' then change('session', session) end
for i = 1, #changed, 4000 do -- Lua unpacks no more than some 8000 values
  call('HSET', KEYS[2], unpack(changed, i, math.min(i + 3999, #changed)))
end
if snapshot and snapshot.lane then
  local last_of_lane = lane_last[snapshot.lane] or tonumber(call('HGET', KEYS[2], 'lane:' .. snapshot.lane) or 0)
  if last_of_lane <= snapshot.covered then call('HDEL', KEYS[2], 'since:' .. snapshot.lane) end
end

call('ZADD', KEYS[4], now, run_id)
if session ~= '' and (meta[3] or session) == session then call('ZADD', KEYS[8], now, run_id) end
call('ZADD', KEYS[5], 'NX', now, run_id)

call('HSET', KEYS[3], producer, text(batch) .. ' ' .. table.concat(reply, ' ', 2))
-- now and then, so that the run does not remember every process that ever wrote to it
if batch % 16 == 1 and call('HLEN', KEYS[3]) > 16 then
  local known = call('HGETALL', KEYS[3])
  for i = 1, #known, 2 do
    -- its time is the seventh part of what is kept, in the place of the reply that it has there
    local at = string.match(known[i + 1], '^%S+ %S+ %S+ %S+ %S+ %S+ (%d+)')
    if microseconds - tonumber(at) > window then call('HDEL', KEYS[3], known[i]) end
  end
end
return reply
