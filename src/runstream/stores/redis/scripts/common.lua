-- Functions that several scripts share. The source of a script is this file, then its own. This file writes nothing
-- and sets no global.
--
-- A server that has reached maxmemory refuses the first write of a script if that may take memory; once a script has
-- made a write, the server refuses none. So a script that has to work on a full server begins with a write that frees
-- memory, or with one that changes nothing: ZREM or HDEL of the member ''.

local call, format = redis.call, string.format

-- A whole number as text: tostring would give 1e+15.
local function text(number) return format('%.0f', number) end

-- The offset and the chain of a cursor, 'OFFSET-CHAIN', or of a run's start: behind a fork's is its identity, another for
-- each that was made, 'OFFSET-CHAIN-IDENTITY'. The last number of a start names this very creation of the run.
local function parse_cursor(cursor)
  local offset, chain = string.match(cursor, '^(%d+)%-(%d+)%-?%d*$')
  return tonumber(offset), tonumber(chain)
end

-- Where the history of the run with this start begins: at 0 also for a fork, which shares what lies before its start.
local function begin_of(start)
  return string.find(start, '^%d+%-%d+%-') and 0 or parse_cursor(start)
end

-- The server's time in microseconds.
local function clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function is_ended(status) return status == 'completed' or status == 'failed' or status == 'cancelled' end

-- Parses meta's field `retired`. A tombstone has 'RUN LANES': the revision of the run's own snapshot and the highest
-- of its lanes' snapshots (0: none) as they left Redis; its last cursor is its mark. A retired run that was appended
-- to since has 'RUN LANES OFFSET', with the offset up to which it was retired.
-- Beside it, meta has the revision of each lane's snapshot in a field of its own (see gone_field), and in `unlisted` the
-- highest revision of the lanes that have none; without `unlisted`, as it was retired by 0.1.0, that is LANES.
-- Returns the two revisions and the offset (of a tombstone `last`, the run's last offset); nil for a run that was not
-- retired.
local function parse_retired(retired, last)
  if not retired then return nil end
  local of_run, of_lanes, offset = string.match(retired, '^(%d+) (%d+) ?(%d*)$')
  return tonumber(of_run), tonumber(of_lanes), tonumber(offset) or last
end

-- The field of meta that keeps the revision of a lane's snapshot that left Redis: a long name as a fingerprint of it, so
-- that a tombstone keeps little of each lane.
local function gone_field(lane)
  if #lane <= 24 then return 'gone:' .. lane end
  local sum = 0
  for i = 1, #lane do sum = (sum * 1021 + string.byte(lane, i)) % 8796093022151 end
  return 'gone#' .. text(sum)
end

local function is_tombstone(retired) return retired and string.match(retired, '^%d+ %d+$') ~= nil end

-- A name for this primary that changes with every failover and restart. A lease is in force only on the server that
-- gave it: after a failover or a restart, a newer lease may have been lost. Fakeredis, which does not tell, is '-'; a
-- server that does not is refused at connect.
local function server_identity()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '-'
end

-- Parses a lease: meta's field `lease` (of the run) or `lease:LANE`, 'EPOCH EXPIRES TOKEN SERVER OWNER'.
-- A token ends in how long the lease lasts, '.MICROSECONDS' (up to 0.1.0 it did not): a deadline that lies more than twice
-- as far ahead was set by a clock that was ahead. Such a lease is in nobody's way, and its holder, who says so by the
-- token `mine`, has it until another takes it.
-- Returns its token, owner, expiry (microseconds) and epoch; nil if it is not in force at the time `now`.
local function lease_in_force(lease, now, mine)
  if not lease then return nil end
  local epoch, expires, token, server, owner = string.match(lease, '^(%d+) (%d+) (%S+) (%S+) (.*)$')
  if tonumber(expires) <= now or server ~= server_identity() then return nil end
  local lasts = string.match(token, '%.(%d+)$')
  if lasts and tonumber(expires) - now > 2 * tonumber(lasts) and token ~= mine then return nil end
  return token, owner, tonumber(expires), epoch
end

-- Parses meta's field `by`, which is there if the run's last append took the fast path: 'PRODUCER BATCH FORMER BEFORE',
-- with the run's last cursor and the lane's last offset before it. It stands for the reply that any other append keeps
-- with its producer. After a batch was revoked it names 'revoked', which is none, until the run goes on.
-- Returns the producer and that reply; nil if the run's last append was another one.
local function reply_of(by, start, last, updated)
  local producer, batch, former, before = string.match(by or '', '^(%S+) (%d+) (%S+) (%d+)$')
  if not producer or producer == 'revoked' then return nil end
  return producer, table.concat({batch, former, last, '0 0', start, updated, before}, ' ')
end

-- Whether a reply that is kept with a producer is of a batch that was revoked: it wrote no event, and no snapshot.
local function is_revoked(reply) return string.match(reply, '^%S+ %S+ %S+ 0 0 %S+ %d+$') ~= nil end

-- When a producer was last heard, from the reply that is kept with it (microseconds; 0 if it is damaged).
local function heard_at(reply) return tonumber(string.match(reply, '^%S+ %S+ %S+ %S+ %S+ %S+ (%d+)') or 0) end

-- Notes in a hash (meta, or the config of the partition) that producers were forgotten that were last heard up to then.
local function note_forgotten(key, at)
  if at > (tonumber(call('HGET', key, 'forgotten') or 0) or 0) then call('HSET', key, 'forgotten', text(at)) end
end

-- When the producers of a run were forgotten because their key was removed, though `heard` says that there was one
-- (microseconds; 0 if it is there): they were last heard by when the run was last written to, `updated`, or, by clocks
-- that were ahead, `ahead`, or by when one was revoked, of which `heard` is the time.
local function lost_at(producers, heard, updated, ahead)
  if not heard or call('EXISTS', producers) == 1 then return 0 end
  return math.max(tonumber(updated or 0) or 0, tonumber(ahead or 0) or 0, tonumber(heard) or 0)
end

-- When a producer is heard whose batch was first sent then (see may_be_forgotten): now, but never before that was sent,
-- nor before it was heard by its last reply `sent`.
local function hears_at(sent_at, now, sent)
  return math.max(now, tonumber(sent_at) or 0, sent and heard_at(sent) or 0)
end

-- Whether a producer, or its last batch (see switch.lua), may have been forgotten since a batch was first sent (microseconds; 0:
-- too long ago; '-': that is not known, and no). `lost` is what lost_at says. Returns nil if not; else a time, as text,
-- after all that was noted: what is first sent then is new.
-- `forgotten` says when the producers that were forgotten were last heard. None was heard before any of its batches was sent,
-- whatever clocks the two were told by (see hears_at): so each of their batches was first sent by `forgotten`.
local function may_be_forgotten(sent_at, meta, config, now, lost)
  if sent_at == '-' then return nil end
  local of_run = tonumber(call('HGET', meta, 'forgotten') or 0) or 0
  local noted = math.max(of_run, tonumber(call('HGET', config, 'forgotten') or 0) or 0, lost)
  local first_sent = tonumber(sent_at)
  return (first_sent == 0 or first_sent <= noted) and text(math.max(now, noted + 1)) or nil
end

-- Whether a field of meta notes a snapshot, of the run or of a lane.
local function is_snapshot(field) return string.sub(field, 1, 8) == 'snapshot' end

-- When the last lease in force expires (microseconds); 0 if none is in force.
local function last_expiry(meta, now)
  local last = 0
  for field, value in pairs(meta) do
    if string.match(field, '^lease') then
      local _, _, expires = lease_in_force(value, now)
      last = math.max(last, expires or 0)
    end
  end
  return last
end

-- The seq of a lane's last event as its mark has it: with '+' in front of it as long as no event of the lane has a
-- lower one than an event before it. `seq` and `first` are those of the last and first new event, `former` is the mark
-- before, nil for a lane that has none.
local function seq_in_mark(seq, first, former)
  local highest = former and string.match(former, ' %+(%d+)$')
  if former and (not highest or tonumber(first) < tonumber(highest)) then return string.match(seq, '[^+]+') end
  return seq
end

-- The text that is written in hexadecimal.
local function unhex(words)
  return (string.gsub(words, '..', function(hex) return string.char(tonumber(hex, 16)) end))
end

-- A run's member in the index of one tag's values, a sorted set by the name: the value, with its length, and the run. All
-- members of one value follow each other.
local function tag_member(value, run_id) return #value .. ':' .. value .. run_id end

-- Puts a run into the index of a tag under its value, and takes it out under its former one; either may be nil. Returns
-- whether the index is what it must be, and how often it was put in.
local function index_tag(index, run_id, former, value)
  local removed = former and redis.pcall('ZREM', index, tag_member(former, run_id))
  local added = value and redis.pcall('ZADD', index, 0, tag_member(value, run_id))
  return type(removed) ~= 'table' and type(added) ~= 'table', added
end

-- Takes a run out of the indexes of its tags, whose names are in ARGV from `at_names` on and whose indexes are the last of
-- KEYS.
local function unindex_tags(tags, run_id, at_names)
  local first = #KEYS - #ARGV + at_names - 1
  for i = at_names, #ARGV do
    local value = redis.pcall('HGET', tags, ARGV[i])
    if type(value) == 'string' then index_tag(KEYS[first + i - at_names + 1], run_id, value) end
  end
end

-- The values of a hash by field.
local function all_of(key)
  local fields, found = call('HGETALL', key), {}
  for i = 1, #fields, 2 do found[fields[i]] = fields[i + 1] end
  return found
end

-- The values of these fields of a hash, by field.
local function some_of(key, fields)
  local found = {}
  for i = 1, #fields, 4000 do -- Lua unpacks no more than some 8000 values
    local last = math.min(i + 3999, #fields)
    local values = call('HMGET', key, unpack(fields, i, last))
    for j = i, last do found[fields[j]] = values[j - i + 1] or nil end
  end
  return found
end

-- A run's sorted set `lanes`; see settle.lua. These functions return whether that could be written.
local no_own_snapshot = 4503599627370496 -- 2^52: above all offsets, and exact

-- Notes from where on a lane is recovered, its `since`, or that it is not, if that is nil. Lanes without a snapshot of
-- their own, which the run's snapshot covers, come after all others.
local function index_since(lanes, lane, since, has_snapshot)
  local score = since and text(since + (has_snapshot and 0 or no_own_snapshot)) or 'inf'
  return type(redis.pcall('ZADD', lanes, score, 'since:' .. lane)) == 'number'
end

-- Notes a snapshot that is not proven to be archived, by its field in meta.
local function index_unproven(lanes, field) return type(redis.pcall('ZADD', lanes, 0, field)) == 'number' end

-- Whether a key is an index of lanes that settling has made: not one that was removed, and begun again by what came since.
local function is_index(lanes) return type(redis.pcall('ZSCORE', lanes, '')) == 'string' end

-- Notes that a lane was ended.
local function index_ended(lanes, lane) return type(redis.pcall('ZADD', lanes, -1, 'end:' .. lane)) == 'number' end

-- Whether a lane is ended: its fields `lane`, `snapshot` and `end` of meta.
local function is_ended_lane(mark, snapshot, ending)
  local offset, token = string.match(ending or '', '^(%d+) (%S+)$')
  return offset ~= nil and tonumber(string.match(mark or '0', '^%d+')) <= tonumber(offset)
    and (token == (snapshot and string.match(snapshot, '(%S+)$') or '-') or token == '?' and not snapshot)
end

-- Reads ARGV from `first` on: a number of archives, the UUID and location of each, then fields and values.
-- Returns the location of an archive that the partition requires (in the hash `key`) and that is not among them, or
-- nil; the values by field; and the archives, as HSET takes them, if it requires none, since what it required was lost in
-- a failover, or removed: then these are to be required before anything leaves Redis.
local function archived_by(key, first)
  local at_fields, given, has, values = first + 1 + 2 * tonumber(ARGV[first]), {}, {}, {}
  for i = first + 1, at_fields - 1 do given[#given + 1] = ARGV[i] end
  for i = 1, #given, 2 do has[given[i]] = true end
  for i = at_fields, #ARGV, 2 do values[ARGV[i]] = ARGV[i + 1] end
  local required = call('HGETALL', key)
  for i = 1, #required, 2 do
    if not has[required[i]] then return required[i + 1], values end
  end
  return nil, values, #required == 0 and given[1] and given or nil
end

-- The reply {'held', field, owner, microseconds left} if this lease is in force under another token than `mine`;
-- else nil.
local function held(field, lease, now, mine)
  local token, owner, expires = lease_in_force(lease, now)
  if not token or token == mine then return nil end
  return {'held', field, owner, text(expires - now)}
end

