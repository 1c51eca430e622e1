-- Appends events to a run, saves snapshots with them, or does either alone, in one atomic step.
--
-- Source: the append script is append_parts.lua, append_fast_path.lua, then common.lua, then this file, run as one chunk.
-- The fast path ends the script where it applies. Where it does not, it has written nothing, and this file goes on:
-- what is declared neither here nor in common.lua is declared, and has been read, in the first two.
--
-- KEYS  1 events  2 meta  3 producers  4 runs  5 due  6 config of the partition  7 deleted
--       then the session, if the batch names one; then the run's tags and the index of each tag, if it changes some;
--       then the run's keys, if events have keys; then the snapshots, and after them the run's lanes, if there are any or
--       lanes to end
-- ARGV  1 run id  2 session id, or ''  3 producer  4 its batch number
--       5 the cursor that the writer saw last; '-' if it saw none, or if it asks for more than to append events of
--         one lane
--       6 words, separated by single spaces: when the batch was first sent (microseconds), '-' if that is not known, 0
--         if it is so long ago that its producer may be forgotten by now; the start of the
--         history that the writer saw that cursor in, or '-'; the offset of the writer's own last event, or 0, followed
--         by '+' and its seq, and by '=' and its lane, in hexadecimal, if that is not the first lane below; partitions;
--         for how long a silent producer is remembered (microseconds); who sends it: 'person', of what a person says to
--         the run (one event of the lane 'answers'), which a lease on the whole run lets pass; 'run', whom a request to
--         cancel stops; or '-'; and if more is asked for: the cursor that the writer saw last,
--         or '-'; expected offset, or '-'; most entries that the run may have here, or '-'; status, or '-'; number of
--         lanes; number of events that are described (all or 0), with ':IDENTITY' behind it if it is known what the fork
--         of this identity shares of the events with their keys; number of leases; number of snapshots; number of notices;
--         number of lanes to end; number of tags
--       then for each lane: its name; words, separated by single spaces: the seq of its last event in the batch, with
--         '+' in front of it if its seqs rise in the batch (none is lower than one before it, all are of 0 to 15
--         digits and not negative); if the batch has several events, the seq of its first one; and if more is asked
--         for, the indexes in the batch of its first and last event
--       then for each event that is described: 'LANE SEQ STATUS', or 'LANE SEQ STATUS KEY': the index of its lane
--         among the lanes, with '=' and the cursor of the event with that key behind it, if the fork shares it; and the
--         status that it gives the run, or '-'
--       then for the lease: its field in meta, its epoch and token
--       then for each notice, of an event that says something between the run and people: the event's index in the batch;
--         'ask LANE QUESTION TEXT', 'answer QUESTION RECORD' (the event's record, '' of one that is not to be kept in
--         meta) or 'cancel REASON', each value in hexadecimal
--       then the lanes to end
--       then for each tag that changes: its name; '=' and its value, or '-' to remove it
--       then for each snapshot, all of different lanes: its meta field; its mode: 'replace', 'compare', or 'change' (as
--         'compare', and it covers what the snapshot before covers, so that nothing is lost even if that is less than
--         what left Redis); the token of the snapshot that it is made from ('' for none; 'retired-REVISION' for a retired
--         one that its writer has from the archive); its own token; the offset that its writer covers, and the last number
--         of the start of the history that it covers there; its checksum; 'whole' or 'difference'; number of fields to set,
--         to remove, to copy; fields and values; fields; and of each field whose value a record has: its name; 'RECORD
--         BEGIN LENGTH', the record's index and that of the first byte, both from 1; what comes before it in the field
--       then the records
--
-- Replies if it was applied: one text of words separated by single spaces: on the fast path, what append_fast_path.lua
--         says; else, and to a batch that is resent, what is kept with the producer:
--           batch number, former last cursor, last cursor, revisions, covered offsets, start, server time, former
--           last offset of each lane, then the index and cursor of each event whose key was known; revisions and
--           offsets are those of the snapshots, joined by ','; if none was saved, the former is 0, and the latter '-' if
--           lanes were ended, else 't' if tags were asked for, else 0
--         if it was not, a list, and nothing was written:
--         {'stale', time}           whether it was applied before cannot be told, since its producer, or its producer's
--                                   last batch, may be forgotten: it was first sent when one that was forgotten was last
--                                   heard, or before, or too long ago; or it does not say when, and the run was retired.
--                                   The server's time, or a later one that is after all that was noted
--         {'revoked'}               it was revoked (see revoke.lua)
--         {'unleased'}              the lease that it carries has passed to another owner or expired
--         {'held', field, owner, microseconds}  another lease is in force, for so long
--         {'cancelled', reason}     a run sends it, and is to be cancelled
--         {'unasked'}               a person sends it: no lane waits for the answer to this question
--         {'lost', offset}          the run ends, at this offset, before what the writer saw
--         {'diverged'}              the run has another history there, or lacks what the writer wrote last
--         {'fork'}                  it has keys, and the run is a fork, and what that shares of them is not known
--         {'absent'}                there is no such run, and the batch has nothing that would begin one
--         {'partitions', n}         the namespace has n partitions
--         {'conflict', offset}      the run ends at this offset, not at the expected one
--         {'full', entries, more}   the run has so many entries here, too many with so many more
--         {'archived', offset}      the snapshot needs events that were trimmed up to there
--         {'retired', offset}       compare: the former snapshot was retired, with the run up to there, or may have left
--                                   Redis with its lane, and the writer does not have it from the archive as it is
--         {'tags', n}               the run would have n tags, too many
--         {'snapshot', revision, n} compare: another snapshot was saved since, in place of the n-th
--         {'whole'}                 the difference does not apply: send the whole snapshot
--         {'damaged', key, why}     a key of the run does not hold what it must
--         {'unfinished'}            an append that was refused in its midst has left entries: adopt them, and send again
--
-- After an append: offsets are dense; the id of entry n is n-chain(n); meta's `last` is the last entry's id;
-- the run is due, and listed by its last update, to the second; no entry's record has more bytes than meta's `largest`,
-- where that is (0.1.0 does not keep it: what it has appended may have more). A batch that its producer has sent before gets its
-- first reply and changes nothing. An event whose key was known has not been written again; if all were known,
-- nothing has been, the snapshots included.
-- A retired run goes on after its last cursor, which is its mark. Its lanes are no longer known, so the worst is
-- assumed: they have events up to there, and no snapshot covers any of them.
-- A lane that is ended has `end:LANE`, 'OFFSET TOKEN': where the run ended then, and the token of its snapshot, '-' if it
-- has none, or '?' if that may have left Redis before. It is ended as long as it has no event after that, and this
-- snapshot. Settling takes it out of Redis (see settle.lua), and notes 'OFFSET REVISION' in `ended`: no lane that left had
-- an event after OFFSET, or a snapshot of a higher revision. From then on an unknown lane may be one of these, as in a
-- retired run: `back:LANE` keeps that revision until it has a snapshot here again, whose revision is higher.
-- Where snapshots were dropped, as what they held was erased, the next one has a higher revision than `dropped`.
-- Meta's `questions` has what each lane asked last, joined by ',': 'LANE QUESTION OFFSET ANSWER TEXT', the offsets of the
-- question and of the answer (0: it is pending), the rest in hexadecimal; `answer:LANE` has the record of the answer, in
-- hexadecimal, if its sender gave it: it is there for the one who asked whatever has been trimmed. `cancel` has the offset of
-- a request to cancel the run, and the reason, until the run has ended and is opened again; a Run's own `run.started`
-- opens it.
-- Where tags have changed, meta's `tags` has another version, NUMBER-TOKEN, and so has the field '' of the run's tags; the
-- number is the server's time in microseconds, or the former number and one. The run is in the index of each of its tags;
-- where one is of another type, the partition's config no longer has `tagged`: not all of its indexes are complete.
-- A batch whose events are those that were adopted from an append that was refused in its midst is the same, sent
-- again: it gets their cursors, as if their keys had been known, and its snapshots are saved.
-- All checks come before the first write, and the first write is the one that can fail (an XADD). The last one is that of
-- meta: what a refusal leaves behind is not in it.

local sent_at, seen_start, wrote, partitions, window, sender, more =
  match(ARGV[6], '^(%S+) (%S+) (%S+) (%d+) (%d+) (%S+) ?(.*)$')
local expected, most, status, lanes, described, leases, saves, notices, ends, tags = '-', '-', '-', 1, '0', '0', 0, 0, 0, 0
if more ~= '' then
  seen, expected, most, status, lanes, described, leases, saves, notices, ends, tags =
    match(more, '^(%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+) (%S+)$')
end
local shares_of
described, shares_of = match(described, '^(%d+):?(%d*)$')
window, lanes, described, notices = tonumber(window), tonumber(lanes), tonumber(described), tonumber(notices)
saves, ends, tags = tonumber(saves), tonumber(ends), tonumber(tags)
local batch, microseconds = tonumber(ARGV[4]), time[1] * 1000000 + time[2]

-- a resend: the first reply is kept with the producer
local by_producer, by_reply = reply_of(by, meta[1], meta[2], meta[11])
local sent = by_producer == producer and by_reply or call('HGET', KEYS[3], producer)
local sent_batch = sent and tonumber(string.match(sent, '^%S+')) or 0
if sent_batch == batch then
  if is_revoked(sent) then return {'revoked'} end
  -- a write, so that WAIT covers the first one. A full server takes both of these (see common.lua), so that what was
  -- applied is not taken for refused
  call('HDEL', KEYS[3], '')
  call('HSET', KEYS[3], producer, sent)
  return sent
end
if sent_batch > batch then return {'stale', now} end
local heard = call('HGET', KEYS[2], 'heard')
local producers_lost = sent and 0 or lost_at(KEYS[3], heard, meta[11], meta[15])
local stale = may_be_forgotten(sent_at, KEYS[2], KEYS[6], microseconds, producers_lost)
if stale then return {'stale', stale} end
local heard_now = hears_at(sent_at, microseconds, sent)

-- what is noted of the run, as far as it is needed here; what is damaged is found before the first write
local a_cursor, a_number = '^%d+%-%d+$', '^%d+$'
local fault
local function check(name, value, form)
  if value and not match(value, form) then fault = fault or {'damaged', KEYS[2], 'its field ' .. name .. ' does not read'} end
end
check('start', meta[1], '^%d+%-%d+%-?%d*$')
check('last', meta[2], a_cursor)
check('retired', meta[8], '^%d+ %d+')
check('mark', meta[10], a_cursor)
check('updated', meta[11], a_number)
check('largest', meta[12], a_number)
if meta[1] and not (meta[2] and meta[11]) or meta[2] and not meta[1] then
  fault = fault or {'damaged', KEYS[2], 'it lacks the fields start, last or updated'}
elseif not meta[1] then
  local events = call('TYPE', KEYS[1])['ok']
  local replies, is_begun = events == 'stream' and call('HGETALL', KEYS[3]) or {}, false
  for i = 2, #replies, 2 do is_begun = is_begun or not match(replies[i], '^%S+ %S+ 0%-0 ') end -- else it was revoked
  if events == 'stream' and not is_begun then
    fault = fault or {'unfinished'} -- no append to it has ever come to its end
  elseif events == 'stream' then
    fault = {'damaged', KEYS[2], 'it was removed, while other keys of the run are there'}
  elseif events ~= 'none' then
    fault = {'damaged', KEYS[1], 'it is a ' .. events .. ', and must be a stream'}
  end
elseif meta[2] ~= (meta[10] or meta[1]) and not is_tombstone(meta[8]) and call('EXISTS', KEYS[1]) == 0 then
  fault = fault or {'damaged', KEYS[1], 'it was removed, with events that no archive has'}
elseif not fault and call('XRANGE', KEYS[1], '(' .. meta[2], '+', 'COUNT', 1)[1] then
  fault = {'unfinished'}
end
check('adopted', meta[13], '^%d+%-%d+ %d+%-%d+ %d+')
if fault then return fault end

-- where each part begins in the arguments and keys
local at_events = 7 + 2 * lanes
local at_lease = at_events + described
local at_notices = at_lease + (leases == '1' and 2 or 0)
local at_ends = at_notices + 2 * notices
local at_tags = at_ends + ends
local at_snapshots = at_tags + 2 * tags
local at_tags_key = session ~= '' and 9 or 8
local at_key = at_tags_key + (tags > 0 and tags + 1 or 0)
local keys_key = KEYS[at_key]
if described > 0 then at_key = at_key + 1 end
local snapshots, at_records, lanes_key = {}, at_snapshots, KEYS[at_key + saves]
for i = 1, saves do
  local at = at_records
  local snapshot = {
    key = KEYS[at_key + i - 1],
    field = ARGV[at], mode = ARGV[at + 1], base = ARGV[at + 2], token = ARGV[at + 3],
    covers = tonumber(ARGV[at + 4]), history = ARGV[at + 5], form = ARGV[at + 7], first = at,
    lane = string.match(ARGV[at], '^snapshot:(.*)$'),
  }
  at_records = at + 11 + 2 * ARGV[at + 8] + ARGV[at + 9] + 3 * ARGV[at + 10]
  snapshots[i] = snapshot
end

-- facts about the run and its lanes. The first chain of a new run comes from the random name of the producer
-- that creates it and from the time, so that it is another for each run
local start = meta[1] or ('0-' .. text((tonumber(string.sub(producer, 1, 10), 16) * 7 + now) % 8796093022151))
offset, chain = parse_cursor(meta[2] or start)
local former = meta[2] or start
local of_run, of_lanes, retired = parse_retired(meta[8], offset)
if retired and not sent and sent_at == '-' then return {'stale', now} end
local lane_of, ended = {}, nil
-- What `ended` has: up to where the lanes that left Redis had events, and the highest revision of their snapshots.
local function ended_lanes()
  if not ended then
    local noted = call('HGET', KEYS[2], 'ended')
    check('ended', noted, '^%d+ %d+$')
    local at, highest = match(noted or '', '^(%d+) (%d+)$')
    ended = {at = tonumber(at or 0), revision = tonumber(highest or 0)}
  end
  return ended.at, ended.revision
end
local function add_lane(name, seq, first_seq, first, last)
  local known = name == ARGV[7] and {meta[5], meta[6], meta[7]}
    or call('HMGET', KEYS[2], 'lane:' .. name, 'since:' .. name, 'lease:' .. name)
  check('lane:' .. name, known[1], '^%d+ ')
  check('since:' .. name, known[2], a_number)
  local begin, begun = begin_of(start), parse_cursor(start)
  local gone = math.max(retired or 0, begun > begin and begun or 0) -- what a fork shares may have events of the lane
  if not known[1] and meta[1] then gone = math.max(gone, (ended_lanes())) end
  local lane = {name = name, last = string.match(known[1] or '0', '^%d+'), since = known[2], lease = known[3],
    first_index = tonumber(first), last_index = tonumber(last), seq = seq, first_seq = first_seq,
    is_known = known[1] and true, mark = known[1] or (retired or gone > 0) and '' or nil}
  if not known[1] and gone > begin then
    lane.last, lane.since_ever = text(gone), text(begin + 1)
  end
  lane_of[name] = lane
  return lane
end
local touched = {}
for i = 1, lanes do
  local seq, first_seq, first, last = match(ARGV[6 + 2 * i], '^(%S+) ?(%S*) ?(%d*) ?(%d*)$')
  if first_seq == '' then first_seq = seq end
  if first == '' then first, last = 1, #ARGV - 8 end
  touched[i] = add_lane(ARGV[5 + 2 * i], seq, first_seq, first, last)
end
for i = 1, saves do
  local name = snapshots[i].lane
  if name then
    if not lane_of[name] then add_lane(name) end
    lane_of[name].snapshot = snapshots[i]
  end
end
for i = at_ends, at_tags - 1 do
  if not lane_of[ARGV[i]] then add_lane(ARGV[i]) end
end
if fault then return fault end

-- the lease that it carries, and leases that exclude it
local mine = nil
if leases == '1' then
  local of_mine, token, epoch, _
  of_mine, mine = match(ARGV[at_lease + 1], '^(%d+) (%S+)$')
  token, _, _, epoch = lease_in_force(call('HGET', KEYS[2], ARGV[at_lease]), microseconds, mine)
  -- the epoch, too: a request to take it may come again, late, after another has had the lease
  if token ~= mine or epoch ~= of_mine then return {'unleased'} end
end
local is_persons = sender == 'person' and lanes == 1 and lane == 'answers' and saves + ends + tags == 0
local refusal = meta[4] and not is_persons and held('lease', meta[4], microseconds, mine)
if refusal then return refusal end
for name, lane in pairs(lane_of) do
  refusal = lane.lease and held('lease:' .. name, lane.lease, microseconds, mine)
  if refusal then return refusal end
end

if seen ~= '-' and seen ~= meta[2] then
  local seen_offset = parse_cursor(seen)
  if start ~= seen_start then
    -- deleted, by somebody who was allowed to, or lost, and perhaps created anew by others
    local history = string.match(seen_start, '%d+$')
    if not call('ZSCORE', KEYS[7], history) then return {'lost', text(meta[1] and offset or 0)} end
  elseif offset < seen_offset then
    return {'lost', text(offset)}
  else
    local entry = call('XRANGE', KEYS[1], text(seen_offset), text(seen_offset))[1]
    local there = entry and entry[1]
    if not there then
      local mark = call('HGET', KEYS[2], 'mark') or is_tombstone(meta[8]) and former or start
      -- trimmed: then it was archived, and the mark is there or beyond
      if parse_cursor(mark) <= seen_offset then there = mark end
      -- beyond: then others have gone on since, and nothing here has that chain. But what this writer has written itself,
      -- at `wrote`, its lane must have: it goes on to that offset, and to that seq if its seqs rise; where the run was
      -- put back, `unread` is the last offset whose lane nobody knows
      if not there then
        local wrote_at, wrote_seq, name = match(wrote, '^(%d+)%+?(%-?%d*)=?(%x*)$')
        name = name == '' and ARGV[7] or unhex(name)
        local of_lane = (lane_of[name] or {}).mark or call('HGET', KEYS[2], 'lane:' .. name) or ''
        local highest = match(of_lane, ' %+(%d+)$')
        local lacks = (tonumber(match(of_lane, '^%d+')) or math.max(retired or 0, (ended_lanes()))) < tonumber(wrote_at)
          or highest and tonumber(highest) < (tonumber(wrote_seq) or 0)
        if lacks and tonumber(call('HGET', KEYS[2], 'unread') or 0) < tonumber(wrote_at) then return {'diverged'} end
      end
    end
    if there and there ~= seen then return {'diverged'} end
  end
end

-- which events are new: all of them, but for those that were adopted, or whose keys are known, to the run or by now to
-- this batch
local known_cursors, key_of = {}, {}
local written, has_keys = #ARGV - at_records + 1, nil
local count, adopted, adopted_after = written, nil, nil -- adopted: what is to be noted as such; '' for nothing
if meta[13] then
  local notes = {}
  for after, upto, at in string.gmatch(meta[13], '(%S+) (%S+) (%d+)') do
    local is_known = not adopted_after and count > 0
    local to, fingerprint = parse_cursor(after)
    local cursors, cursor = {}, after
    for i = at_records, is_known and #ARGV or 0 do
      to, fingerprint = to + 1, following(fingerprint, ARGV[i])
      cursor = text(to) .. '-' .. text(fingerprint)
      cursors[#cursors + 1] = cursor
    end
    is_known = is_known and tonumber(at) >= microseconds - window
      and (cursor == upto or to < parse_cursor(upto) and call('XRANGE', KEYS[1], cursor, cursor)[1])
    if is_known then known_cursors, adopted_after, after = cursors, parse_cursor(after), cursor end
    if after ~= upto and tonumber(at) >= microseconds - window then
      notes[#notes + 1] = after .. ' ' .. upto .. ' ' .. at
    end
  end
  adopted = table.concat(notes, ' ')
  if adopted_after then
    written = 0
    for i = 1, lanes do touched[i].first_index, touched[i].last_index = nil, nil end
  end
end
if described > 0 and not adopted_after then
  has_keys = call('HGET', KEYS[2], 'keyed')
  if has_keys and call('EXISTS', keys_key) == 0 then return {'damaged', keys_key, 'it was removed'} end
  if string.match(start, '^%d+%-%d+%-(%d+)$') and string.match(start, '%d+$') ~= shares_of
    and call('HEXISTS', KEYS[2], 'parent') == 1 then
    return {'fork'}
  end
  local index_of, is_given = {}, status ~= '-'
  written = 0
  for i = 1, lanes do
    local lane = touched[i]
    lane.first_index, lane.last_index, lane.sign = nil, nil, match(lane.seq, '^%+') or ''
  end
  for i = 1, described do
    local of_lane, shared, seq, gives, rest = string.match(ARGV[at_events + i - 1], '^(%d+)=?(%S*) (%S+) (%S+)(.*)$')
    local key = rest ~= '' and string.sub(rest, 2) or nil
    local known = key and (shared ~= '' and shared or call('HGET', keys_key, key) or index_of[key])
    if type(known) == 'string' and not match(known, a_cursor) then
      return {'damaged', keys_key, 'what it has for key ' .. key .. ' does not read'}
    elseif known then
      known_cursors[i] = known -- a cursor, or the index of the first event with this key
    else
      written = written + 1
      if key then index_of[key], key_of[i] = i, key end
      if gives ~= '-' and not is_given then status = gives end
      local lane = touched[tonumber(of_lane)]
      if not lane.first_index then lane.first_index, lane.first_seq = written, seq end
      lane.last_index, lane.seq = written, lane.sign .. seq
    end
  end
end

if not meta[1] then
  if written == 0 and saves + tags == 0 then
    return expected ~= '-' and tonumber(expected) ~= offset and {'conflict', text(offset)} or {'absent'}
  end
  local has = call('HGET', KEYS[6], 'partitions')
  if has and has ~= partitions then return {'partitions', has} end
end

local had_ended = meta[14] and is_ended(call('HGET', KEYS[2], 'status'))
local is_nothing = written == 0
  and (adopted_after and saves + notices + ends + tags == 0 or described > 0 and not adopted_after)
if is_nothing then
  snapshots = {}
elseif meta[14] and sender == 'run' and not adopted_after
  and not (had_ended and status == 'running' and saves == 0) then
  return {'cancelled', match(meta[14], '^%d+ ?(.*)$') or ''}
elseif not adopted_after and expected ~= '-' and tonumber(expected) ~= offset then
  return {'conflict', text(offset)}
elseif most ~= '-' and written > 0 then
  local entries = call('XLEN', KEYS[1])
  if entries + written > tonumber(most) then return {'full', text(entries), text(written)} end
end

-- what each snapshot follows and covers
local dropped = snapshots[1] and tonumber(call('HGET', KEYS[2], 'dropped') or 0)
for i = 1, #snapshots do
  local snapshot = snapshots[i]
  local saved = call('HMGET', snapshot.key, 'token', 'revision', 'offset')
  local gone = not saved[1] and retired and of_run or 0
  if not saved[1] and retired and snapshot.lane then
    local of_lane = call('HMGET', KEYS[2], gone_field(snapshot.lane), 'unlisted')
    gone = tonumber(of_lane[1] or of_lane[2] or of_lanes)
  end
  local may_be_ended = false
  if not saved[1] and snapshot.lane then
    local revision = call('HGET', KEYS[2], 'back:' .. snapshot.lane)
    if not revision and not lane_of[snapshot.lane].is_known
      and call('HEXISTS', KEYS[2], gone_field(snapshot.lane)) == 0 then
      local _, highest = ended_lanes()
      revision = highest
    end
    revision = tonumber(revision or 0)
    if revision > gone then gone, may_be_ended = revision, true end
    lane_of[snapshot.lane].is_back = true
  end
  local compares, archived = snapshot.mode ~= 'replace', string.match(snapshot.base, '^retired%-(%d+)$')
  local revision, noted = saved[2] or '', nil
  if not string.match(revision, '^%d+$') or #revision > 15 then -- it is not there, or damaged: meta has it too
    noted = call('HGET', KEYS[2], snapshot.field)
    if noted and not saved[1] and compares then
      return {'damaged', snapshot.key, 'the snapshot was removed: save a new one'}
    end
    revision = noted and string.match(noted, '^%d+ (%d+) ') or text(gone)
  end
  snapshot.revision = math.max(tonumber(revision), dropped) + 1
  if gone > 0 and archived == text(gone) then
    snapshot.base, snapshot.mode = '', 'change' -- its writer has it from the archive, where it stays as it is
  elseif gone > 0 and compares then
    -- others have gone on since, and that was retired too; but of lanes, others may have ended
    if archived and not may_be_ended then return {'snapshot', text(gone), text(i)} end
    return {'retired', text(retired or (ended_lanes()))}
  end
  if (saved[1] or '') ~= snapshot.base then
    if compares then return {'snapshot', text(snapshot.revision - 1), text(i)} end
    if snapshot.form == 'difference' then return {'whole'} end
  end
  local lane = snapshot.lane and lane_of[snapshot.lane]
  local before, since = offset, nil
  if lane then before, since = tonumber(lane.last), tonumber(lane.since or lane.since_ever or nil) end
  -- of adopted events that nothing has followed, too
  if adopted_after and known_cursors[count] == former then before = math.min(before, adopted_after) end
  -- it covers all, if all that came before this batch is covered: in the run, or in its lane
  snapshot.covered = begin_of(start)
  -- the writer's coverage of a deleted run of this name does not hold for this one
  if snapshot.history == string.match(start, '%d+$') then snapshot.covered = snapshot.covers end
  if before > snapshot.covered then -- what was truncated is not to be recovered
    snapshot.covered = math.max(snapshot.covered, (parse_cursor(call('HGET', KEYS[2], 'base') or '0-0')))
  end
  if before <= snapshot.covered then
    snapshot.covered = offset + written
  else
    -- of a lane, all from its first event on that the former snapshot did not cover; if that one covered more
    -- than this one does (or cannot tell: it is damaged), all that this one does not
    if (saved[3] or noted) and snapshot.covered < (tonumber(saved[3] or nil) or math.huge) then
      since = snapshot.covered + 1
      snapshot.since = since
    end
    -- what it does not cover must be there to be recovered
    local trimmed = math.max(tonumber(call('HGET', KEYS[2], 'trimmed') or 0), retired or 0)
    if snapshot.mode ~= 'change' and math.max(snapshot.covered + 1, lane and since or 0) <= trimmed then
      return {'archived', text(math.max(trimmed, lane and not lane.is_known and ended_lanes() or 0))}
    end
  end
end

-- what changes of the run's tags: the index among the tags, the former value, the new one
local tags_key, tags_noted, changes = KEYS[at_tags_key], nil, {}
if tags > 0 and not is_nothing then
  tags_noted = call('HGET', KEYS[2], 'tags')
  local kind = call('TYPE', tags_key)['ok']
  if tags_noted and kind ~= 'hash' then
    return {'damaged', tags_key, kind == 'none' and 'it was removed' or 'it is a ' .. kind .. ', and must be a hash'}
  end
  local count = tags_noted and call('HLEN', tags_key) - 1 or 0
  for i = 1, tags do
    local former, new = tags_noted and call('HGET', tags_key, ARGV[at_tags + 2 * i - 2]) or nil, ARGV[at_tags + 2 * i - 1]
    new = new ~= '-' and string.sub(new, 2) or nil
    if former ~= new then changes[#changes + 1] = {at = i, former = former, new = new} end
    count = count + (new and 1 or 0) - (former and 1 or 0)
  end
  if count > 10000 and changes[1] then return {'tags', text(count)} end
end

-- what each lane asked last: 'LANE QUESTION OFFSET ANSWER TEXT'
local asked = notices > 0 and call('HGET', KEYS[2], 'questions') or ''
if is_persons and written > 0 and match(ARGV[at_notices + 1] or '', '^answer') then
  local question = match(ARGV[at_notices + 1], '^answer (%x*) ')
  if not string.find(',' .. asked, ',%x* ' .. question .. ' %d+ 0 ') then return {'unasked'} end
end

-- Looks at some producers, if there are many, and forgets those that were silent for too long: so a run does not remember
-- every process that ever wrote to it, and no append looks at all of them. `swept` says where the next one goes on; when
-- those that were forgotten were last heard is noted.
local function forget_silent()
  if call('HLEN', KEYS[3]) < 16 then return end
  local from = call('HGET', KEYS[2], 'swept') or ''
  local swept = call('HSCAN', KEYS[3], #from < 19 and match(from, '^%d+$') or '0', 'COUNT', 16)
  local since, known, forgotten = now - window, swept[2], 0
  for i = 1, #known, 2 do
    local at = heard_at(known[i + 1])
    if at < since then
      call('HDEL', KEYS[3], known[i])
      forgotten = math.max(forgotten, at)
    end
  end
  call('HSET', KEYS[2], 'swept', swept[1])
  note_forgotten(KEYS[2], forgotten)
end

-- Notes what events say between the run and people; `offset_of` has the offset of each event, by index. Returns the
-- fields of meta that change, in pairs; false for one to remove. Where the last question is answered, a run that was
-- paused is at work.
local function note_notices(offset_of)
  local changes, order, of_lane, has_answer, pending = {}, {}, {}, false, 0
  local function put(field, value) changes[#changes + 1], changes[#changes + 2] = field, value end
  local function ask(asking, ...)
    if not of_lane[asking] then order[#order + 1] = asking end
    of_lane[asking] = {...}
  end
  for asking, question, at, answered, words in string.gmatch(asked, '(%x*) (%x*) (%d+) (%d+) (%x*)') do
    ask(asking, question, at, answered, words)
  end
  for i = at_notices, at_ends - 1, 2 do
    local index, says, rest = tonumber(ARGV[i]), match(ARGV[i + 1], '^(%a+) (.*)$')
    local at = offset_of[index]
    if at and says == 'ask' then
      local asking, question, words = match(rest, '^(%x*) (%x*) (%x*)$')
      ask(asking, question, at, '0', words)
      put('answer:' .. unhex(asking), false)
      if status == '-' then status = 'paused' end
    elseif at and says == 'answer' then
      has_answer = true
      local answered, record = match(rest, '^(%x*) (%x*)$')
      for j = 1, #order do
        local question = of_lane[order[j]]
        if question[1] == answered and question[3] == '0' then
          question[3] = at
          if record ~= '' then put('answer:' .. unhex(order[j]), record) end
        end
      end
    elseif at and says == 'cancel' then
      put('cancel', at .. ' ' .. unhex(rest))
    end
  end
  for i = 1, #order do
    if of_lane[order[i]][3] == '0' then pending = pending + 1 end
    order[i] = order[i] .. ' ' .. table.concat(of_lane[order[i]], ' ')
  end
  if order[1] then put('questions', table.concat(order, ',')) end
  if has_answer and pending == 0 and status == '-' and call('HGET', KEYS[2], 'status') == 'paused' then
    status = 'running'
  end
  return changes
end

-- from here on nothing may refuse
local changed, before_batch = {'last', '', 'updated', now}, offset
last = former
local function change(field, value)
  changed[#changed + 1] = field
  changed[#changed + 1] = value
end
local keyed, offset_of = {}, {}
for i = at_records, #ARGV do
  local index = i - at_records + 1
  if not known_cursors[index] then
    add(ARGV[i])
    offset_of[index] = at
    if key_of[index] then
      keyed[#keyed + 1], keyed[#keyed + 2] = key_of[index], last
      key_of[index] = last
    end
  elseif adopted_after then
    offset_of[index] = match(known_cursors[index], '^%d+')
  end
end
-- Whether a snapshot of the lane is saved, and covers all of it.
local function covers(lane)
  return snapshots[1] and lane.snapshot and tonumber(lane.last) <= lane.snapshot.covered
end

-- the last offset of each lane before this batch, which shows whether a writer knows its lane without a gap, and the
-- first event of each lane that no snapshot of it covers: from there on the lane is recovered
local reply = {text(batch), former, last, '0', '0', start, now}
for i = 1, lanes do
  local lane = touched[i]
  reply[7 + i] = lane.last
  if lane.last_index then
    note_gap(lane.name, lane.last, before_batch + lane.first_index, lane.since)
    lane.last = text(before_batch + lane.last_index)
    change('lane:' .. lane.name, lane.last .. ' ' .. seq_in_mark(lane.seq, lane.first_seq, lane.mark))
    if not lane.since and not covers(lane) then
      change('since:' .. lane.name, lane.since_ever or text(before_batch + lane.first_index))
    end
    if not lane.is_known and not lane.snapshot then
      local _, highest = ended_lanes()
      if highest > 0 and call('HEXISTS', KEYS[2], gone_field(lane.name)) == 0 then
        change('back:' .. lane.name, text(highest))
      end
    end
  end
end
for i = 1, (described > 0 or adopted_after) and count or 0 do
  local known = known_cursors[i]
  if known then
    reply[#reply + 1] = text(i)
    reply[#reply + 1] = key_of[known] or known
  end
end

-- What a user may lack the right to comes before what is set: so a refusal leaves entries behind, and nothing else that
-- counts.
if producers_lost > 0 then note_forgotten(KEYS[2], producers_lost) end
local by_a_clock_ahead = math.max(tonumber(meta[11]) or 0, heard_now)
if by_a_clock_ahead > math.max(microseconds, tonumber(meta[15] or 0) or 0) then -- see lost_at
  call('HSET', KEYS[2], 'ahead', text(by_a_clock_ahead))
end
if by_producer then
  if not call('HGET', KEYS[3], by_producer) then forget_silent() end
  call('HSET', KEYS[3], by_producer, by_reply)
end
-- what was revoked is kept off the fast path for as long as the run ends where its writer saw it
if by and (by_producer or written > 0) then call('HDEL', KEYS[2], 'by') end
-- a run that stays retired remembers no more producers: all keys of the batch are known, so it never comes to more
local remembers, is_all, is_indexed = not (is_nothing and is_tombstone(meta[8])), nil, nil
if remembers and not sent then forget_silent() end
if not is_nothing then
  if not meta[1] then
    -- up to 0.1.0, what a lease noted of a run that was not there yet was to expire, and what a forgotten run has left
    call('PERSIST', KEYS[2])
    call('PERSIST', KEYS[3])
  end
  for i = 1, #snapshots do
    local name = snapshots[i].lane
    if name and covers(lane_of[name]) then call('HDEL', KEYS[2], 'since:' .. name) end
    if name and lane_of[name].is_back then call('HDEL', KEYS[2], 'back:' .. name) end
  end
  -- where others have appended without `largest`, the sizes of what is here are not known
  is_all = not meta[1] or not meta[12] and call('XLEN', KEYS[1]) == written
  enlist(KEYS[4], now, run_id)
  if session ~= '' and (meta[3] or session) == session then enlist(KEYS[8], now, run_id) end
  enlist(KEYS[5], 'NX', now, run_id)
  for i = 1, #changes do
    local is_sound = index_tag(KEYS[at_tags_key + changes[i].at], run_id, changes[i].former, changes[i].new)
    if not is_sound then call('HDEL', KEYS[6], 'tagged') end
  end
  is_indexed = (snapshots[1] or ends > 0) and call('HEXISTS', KEYS[2], 'indexed') == 1
  for i = 1, is_indexed and #snapshots or 0 do
    local snapshot, lane = snapshots[i], lane_of[snapshots[i].lane or 0]
    if lane then
      local first = lane.last_index and (lane.since_ever or before_batch + lane.first_index)
      local since = not covers(lane) and (snapshot.since or lane.since or first) or nil
      if not (index_since(lanes_key, lane.name, since, true) and index_unproven(lanes_key, snapshot.field)) then
        call('HDEL', KEYS[2], 'indexed') -- the set is of another type: the worker makes it anew
      end
    end
  end
end
if retired then call('PERSIST', KEYS[3]) end -- up to 0.1.0, the producers of a retired run were to expire
if adopted == '' then call('HDEL', KEYS[2], 'adopted') end

local noted = notices > 0 and not is_nothing and note_notices(offset_of) or {}
for i = 1, #noted, 2 do
  if not noted[i + 1] then call('HDEL', KEYS[2], noted[i]) end
end
for i = 1, #noted, 2 do
  if noted[i + 1] then change(noted[i], noted[i + 1]) end
end
if had_ended and not is_nothing and status ~= '-' and not is_ended(status) then call('HDEL', KEYS[2], 'cancel') end

if keyed[1] and not has_keys then change('keyed', '1') end
for i = 1, #keyed, 4000 do -- Lua unpacks no more than some 8000 values
  call('HSET', keys_key, unpack(keyed, i, math.min(i + 3999, #keyed)))
end
changed[2] = last

if changes[1] then
  if not tags_noted then call('DEL', tags_key) end -- what a run of that name has left
  local number = tonumber(match(tags_noted or '', '^%d+') or 0)
  local version = text(math.max(microseconds, number + 1)) .. '-' .. string.sub(producer, 1, 8)
  for i = 1, #changes do
    local name = ARGV[at_tags + 2 * changes[i].at - 2]
    if changes[i].new then
      call('HSET', tags_key, name, changes[i].new)
    else
      call('HDEL', tags_key, name)
    end
  end
  call('HSET', tags_key, '', version)
  change('tags', version)
end
if tags > 0 and not is_nothing then reply[5] = 't' end

local revisions, offsets = {}, {}
for i = 1, #snapshots do
  local snapshot = snapshots[i]
  revisions[i], offsets[i] = text(snapshot.revision), text(snapshot.covered)
  save_snapshot(snapshot.key, snapshot.first, at_records, offsets[i], revisions[i])
  if snapshot.lane and snapshot.since then change('since:' .. snapshot.lane, text(snapshot.since)) end
  change(snapshot.field, offsets[i] .. ' ' .. revisions[i] .. ' ' .. snapshot.token)
end
for i = is_nothing and at_tags or at_ends, at_tags - 1 do
  local lane = lane_of[ARGV[i]]
  local noted = lane.snapshot and lane.snapshot.token
    or match(call('HGET', KEYS[2], 'snapshot:' .. lane.name) or '', '(%S+)$')
  local left_at, highest = ended_lanes()
  local may_have_left = not lane.is_known and (retired or left_at + highest > 0)
  -- what has left, and what a fork shares, may have events of any lane
  if noted or lane.is_known or lane.last_index or lane.since_ever or may_have_left then
    if not noted then
      local gone = call('HMGET', KEYS[2], gone_field(lane.name), 'back:' .. lane.name)
      noted = (gone[1] or gone[2] or may_have_left) and '?' or '-'
    end
    change('end:' .. lane.name, text(offset) .. ' ' .. noted)
    if is_indexed and not index_ended(lanes_key, lane.name) then
      call('HDEL', KEYS[2], 'indexed')
    end
  end
end
if not is_nothing and ends > 0 then reply[5] = '-' end -- else it would look as one that was revoked
if snapshots[1] then reply[4], reply[5] = table.concat(revisions, ','), table.concat(offsets, ',') end

if not is_nothing then
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
  if is_all or meta[12] and size > tonumber(meta[12]) then
    change('largest', bound(size))
  end
  if session ~= '' and (meta[3] or '') == '' then change('session', session) end
  if is_tombstone(meta[8]) then
    change('mark', former)
    change('retired', meta[8] .. ' ' .. text(retired))
  end
end

local answer = table.concat(reply, ' ')
reply[7] = text(heard_now)
local kept = table.concat(reply, ' ')
if remembers then call('HSET', KEYS[3], producer, kept) end
if remembers and not heard then call('HSET', KEYS[2], 'heard', '1') end
if adopted and adopted ~= '' and adopted ~= meta[13] then call('HSET', KEYS[2], 'adopted', adopted) end
if not is_nothing then
  for i = 1, #changed, 4000 do
    call('HSET', KEYS[2], unpack(changed, i, math.min(i + 3999, #changed)))
  end
end
return answer
