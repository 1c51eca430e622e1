-- Retires a run that is archived and was quiet: it leaves Redis except for a tombstone in its meta.
--
-- KEYS  1 events  2 meta  3 producers  4 due  5 retire  6 retired  7 archives
--       8 leftovers  9 lanes  then its snapshots
-- ARGV  1 run id  2 the run's start (it names this very run), '' if there is no run of that name
--       3 for how long it must have been quiet if it has ended, and if it has not ('-': then it stays), separated by a space
--       4 for how long a silent producer is remembered (all in microseconds)
--       5 number of archives that have it, the UUID and location of each
--       then the meta field of each snapshot that they have, and its token; 'tags', and the version of those that they
--         have
--
-- Replies {'ok', entries that left Redis}
--         {'unfit'}                 it has not ended and is to stay, is not archived or is retired already: taken off
--                                   `retire`; settling puts it back
--         {'later'}                 it was not quiet for so long, or is leased: it will be checked again then
--         {'changed'}               it has other snapshots or tags, or is another run of that name; nothing was written
--         {'archives', location}    an archive that the partition requires has not taken part; nothing was written
--
-- After 'ok': what was to be erased is noted still. What people were asked and have said is in meta still, if the run has not ended, with the last event of the
-- lane `answers`. Meta has start, last cursor, status, session, parent, times, `ended` (see append.lua), and `retired` with
-- what belongs to it (see common.lua), and the run is in `retired`; it has no events and no snapshots. Its tags stay,
-- callers' keys stay known, and producers
-- for their window (the run is in `leftovers`), so that a batch that is resent is not applied again. The mark was moved
-- to the last cursor by a settling that carried the
-- proof, and nothing is due: so all that goes here was compared with every archive. Where the partition required no
-- archive, it requires these. The first write is a ZREM or DEL: a full server takes it, and then the rest.

local now, of_ended, of_others = clock(), string.match(ARGV[3], '^(%d+) (%S+)$')
of_ended, of_others = tonumber(of_ended), tonumber(of_others)
local score = call('ZSCORE', KEYS[5], ARGV[1])
local meta = all_of(KEYS[2])
local missing, archived, required = archived_by(KEYS[7], 5)
if missing then return {'archives', missing} end

if (meta['start'] or '') ~= ARGV[2] then return {'changed'} end
local has_ended = is_ended(meta['status'])
local quiet = of_ended
if not has_ended then quiet = of_others end
if not score or not meta['start'] or is_tombstone(meta['retired']) or not quiet
  or (meta['mark'] or meta['start']) ~= meta['last'] or call('ZSCORE', KEYS[4], ARGV[1]) then
  call('ZREM', KEYS[5], ARGV[1])
  return {'unfit'}
end

local from = math.max(tonumber(meta['updated']), last_expiry(meta, now) - quiet)
if from > now - quiet then
  call('ZREM', KEYS[5], '') -- a full server takes this, and then the rest; see common.lua
  -- those that were quiet for as long as an ended one must be are looked at
  call('ZADD', KEYS[5], 'XX', text(from + quiet - of_ended), ARGV[1])
  return {'later'}
end

local of_run, of_lanes = parse_retired(meta['retired'])
of_run, of_lanes = of_run or 0, of_lanes or 0
local unlisted, gone = meta['unlisted'] or text(of_lanes), {}
local ended_at, ended_revision = string.match(meta['ended'] or '', '^(%d+) (%d+)$')
ended_at, ended_revision = ended_at or '0', tonumber(ended_revision or 0)
for field, value in pairs(meta) do
  if string.match(field, '^gone[:#]') then gone[field] = value end
end
for field, value in pairs(meta) do
  if is_snapshot(field) then
    local revision, token = string.match(value, '^%d+ (%d+) (%S+)$')
    if archived[field] ~= token then return {'changed'} end
    if field == 'snapshot' then
      of_run = math.max(of_run, tonumber(revision))
    else
      of_lanes = math.max(of_lanes, tonumber(revision))
      gone[gone_field(string.sub(field, 10))] = revision
    end
  end
end

-- a lane that was ended, and goes on, has no snapshot here yet: the archives have the one that it goes on from
for field, revision in pairs(meta) do
  local lane = string.match(field, '^back:(.*)$')
  if lane and not gone[gone_field(lane)] then gone[gone_field(lane)] = revision end
end

-- of lanes that were ended nothing is kept but the highest revision
for field, value in pairs(meta) do
  local lane = string.match(field, '^end:(.*)$')
  local former = lane and gone[gone_field(lane)]
  if former and is_ended_lane(meta['lane:' .. lane], meta['snapshot:' .. lane], value) then
    ended_revision = math.max(ended_revision, tonumber(former))
    gone[gone_field(lane)] = nil
  end
end

if meta['tags'] ~= archived['tags'] then return {'changed'} end

local entries = call('XLEN', KEYS[1])
call('DEL', KEYS[1], KEYS[9])
if required then call('HSET', KEYS[7], unpack(required)) end
for i = 10, #KEYS do call('DEL', KEYS[i]) end
-- made anew: a hash never goes back to its compact form, and would keep the memory of what it had
call('DEL', KEYS[2])
local kept = {'start', meta['start'], 'last', meta['last'], 'status', meta['status'], 'created', meta['created'],
  'updated', meta['updated'], 'retired', text(of_run) .. ' ' .. text(of_lanes)}
local function keep(field)
  if meta[field] then kept[#kept + 1], kept[#kept + 2] = field, meta[field] end
end
keep('session')
keep('parent')
keep('cleanof')
keep('keyed')
keep('tags')
local of_erasing = {'erasures', 'erased', 'rebuilt', 'dropped', 'base', 'origin'}
for i = 1, #of_erasing do keep(of_erasing[i]) end
local lost = lost_at(KEYS[3], meta['heard'], meta['updated'], meta['ahead'])
if lost > (tonumber(meta['forgotten'] or 0) or 0) then meta['forgotten'] = text(lost) end
keep('forgotten')
keep('ahead')
keep('adopted')
if not has_ended then
  -- people say their next thing under the next number: where they have said nothing, that is known too
  meta['lane:answers'] = meta['lane:answers'] or not (meta['retired'] or meta['ended']) and '0 +0' or nil
  keep('questions')
  keep('cancel')
  for field in pairs(meta) do
    if string.match(field, '^answer:') then keep(field) end
  end
end
keep('lane:answers')
if of_lanes > 0 then kept[#kept + 1], kept[#kept + 2] = 'unlisted', unlisted end
if meta['ended'] or ended_revision > 0 then
  kept[#kept + 1], kept[#kept + 2] = 'ended', ended_at .. ' ' .. text(ended_revision)
end
keep('epoch') -- the next one is the server's time, but if that is set back
call('HSET', KEYS[2], unpack(kept))
for field, revision in pairs(gone) do call('HSET', KEYS[2], field, revision) end
local producer, reply = reply_of(meta['by'], meta['start'], meta['last'], meta['updated'])
if producer then call('HSET', KEYS[3], producer, reply) end
call('ZADD', KEYS[8], text(now + tonumber(ARGV[4])), ARGV[1])
call('ZREM', KEYS[5], ARGV[1])
call('ZADD', KEYS[6], text(now), ARGV[1])
return {'ok', entries}
