-- Notes up to where a run is archived, trims what is no longer needed, and gives the claim back or keeps it.
--
-- KEYS  1 events  2 meta  3 due  4 archives  5 parked  6 retire  7 lanes  then the snapshots of lanes that were ended
-- ARGV  1 run id  2 the run's start (it names this very run), with ' fork' behind it if the caller knows it as a fork
--       3 the cursor up to which the run is proven to be archived  4 trim: 'covered', 'archived' or 'never';
--       with ' idle' behind it, a run may be retired that has not ended
--       5 keep the claim for so long (microseconds), or '' to give it back
--       6 'AFTER UPTO SEQ': no event after offset AFTER up to offset UPTO has a higher seq than SEQ, which is not
--         negative; '' if that is not known
--       7 the offset after which no event up to that cursor is of another lane than those that follow; '' if that is not
--         known  8 number of lanes, their names
--       then the number of lanes that were ended, their names
--       then the number of archives that have it, the UUID and location of each
--       then the meta field of each snapshot that is archived, and its token; 'tags', and the version of those that are;
--         'erased', and the number of the last request to erase that is carried out here and in these archives;
--         'retry', and how long a run that is given back and stays due waits (microseconds), as where that is hindered
--
-- Replies {'ok', entries trimmed, '1' if nothing is left to archive, the offset in `peak`, or else where its entries begin}
--         {'gone'}                  the run was deleted, or deleted and created anew, or has another history at
--                                   that cursor which has been settled since; or it is a fork no more, and has more than
--                                   the caller knows
--         {'diverged'}              the run has another history at that cursor
--         {'archives', location}    an archive that the partition requires has not taken part
--         In the last three cases nothing was trimmed and the claim stands until it expires.
--
-- After 'ok': the mark is at least at that cursor; what was trimmed now ends at or before it. The run stays due if an
-- event or a snapshot came in between; for each snapshot that is archived, meta has the token in `proven` or
-- `proven:LANE`, once the last cursor is, in `tagsproven` the version of the tags, and in `erased` that number; if the run may be retired and nothing
-- is left to archive, it is in `retire`.
-- `peak` is 'OFFSET SEQ': all up to OFFSET has been trimmed, and no seq of it is higher than SEQ. Where ARGV[6] goes on
-- from there, or from the run's start, nothing is trimmed beyond what it tells, and the run stays due for the rest.
-- Where it does not, what may be trimmed is, and `peak` stays as it was: it tells of less than has been trimmed then.
-- Where the partition required no archive, it requires these from the moment on in which something is trimmed.
-- A lane that is ended, up to a cursor that is archived, and its snapshot with it, holds trimming back no more. Once all of
-- its events have been trimmed, all that was noted of it and its snapshot are removed, unless something is to be erased
-- that is not yet; see append.lua for what stays.
--
-- Where meta has many fields, they are not gone through each time. `lanes` has the fields of those that hold trimming back
-- or are not archived: each `since:LANE` with its offset as score (see index_since in common.lua), each `snapshot:LANE`
-- that is not proven with score 0, and '' as the last, by which it is known from a key that was removed. `indexed` is the
-- mark up to which it knows every lane that has events: a settling adds the lanes of what it archives. `end:LANE` has score
-- -1 for each lane that was ended. Where there is no
-- `indexed`, or another mark, as after a settling of 0.1.0, it is made anew from all of meta. Snapshots are noted there as
-- they are saved.
--
-- XTRIM is the first write (for a retired run, ZREM): it frees memory, so a full server takes what makes room.

local function offset_of(cursor) return (parse_cursor(cursor)) end

local is_large, is_indexed, meta = call('HLEN', KEYS[2]) > 512, false, nil
if is_large then
  meta = some_of(KEYS[2], {'start', 'last', 'mark', 'updated', 'status', 'retired', 'snapshot', 'proven', 'peak',
    'trimmed', 'indexed', 'tags', 'tagsproven', 'erasures', 'erased', 'parent', 'base'})
  local mark = meta['mark'] or meta['start']
  is_indexed = mark and meta['indexed'] == mark and ARGV[7] ~= '' and tonumber(ARGV[7]) <= offset_of(mark)
    and is_index(KEYS[7])
end
if not is_indexed then meta = all_of(KEYS[2]) end
local start, of_fork = string.match(ARGV[2], '^(%S+)(.*)$')
if meta['start'] ~= start or (of_fork ~= '') ~= (string.find(meta['parent'] or '', '^%d+%-') ~= nil) then return {'gone'} end

local at_ended = 9 + tonumber(ARGV[8])
local count_ended = tonumber(ARGV[at_ended])
local missing, archived, required = archived_by(KEYS[4], at_ended + 1 + count_ended)
if missing then return {'archives', missing} end

local function due_again() return clock() + tonumber(archived['retry'] or 0) end

-- Whether something is to be erased that is not yet, here or in an archive. What is by now is noted.
local function is_to_erase()
  if meta['erasures'] == meta['erased'] then return false end
  if archived['erased'] ~= meta['erasures'] then return true end
  call('HSET', KEYS[2], 'erased', meta['erasures'])
  return false
end

local proven, offset = ARGV[3], offset_of(ARGV[3])
if is_tombstone(meta['retired']) then
  -- a late worker: all of the run was archived before it was retired
  if offset > offset_of(meta['last']) then return {'diverged'} end
  call('ZREM', KEYS[3], ARGV[1])
  call('HDEL', KEYS[5], ARGV[1])
  if is_to_erase() then
    call('ZADD', KEYS[3], text(due_again()), ARGV[1])
    return {'ok', 0, '0', '0'}
  end
  return {'ok', 0, '1', '0'}
end

local mark = meta['mark'] or meta['start']
local proven_to = offset -- what these archives have shown to hold ends here, however far others have moved the mark
if proven ~= mark and proven ~= meta['last'] then
  local entry = call('XRANGE', KEYS[1], text(offset), text(offset))[1]
  local is_settled = offset <= offset_of(mark)
  if not entry and is_settled then
    proven, offset = mark, offset_of(mark) -- somebody else has settled further
  elseif not entry or entry[1] ~= proven then
    return {is_settled and 'gone' or 'diverged'}
  end
end
if offset < offset_of(mark) then proven, offset = mark, offset_of(mark) end

-- the lanes that are ended and archived, with the offset of their last event and their snapshot's revision, and those of
-- which something has come since
local over, was_ended, reopened = {}, {}, {}
for i = 1, ARGV[5] == '' and count_ended or 0 do
  local name = ARGV[at_ended + i]
  local noted = call('HMGET', KEYS[2], 'lane:' .. name, 'snapshot:' .. name, 'end:' .. name)
  was_ended[name] = true
  if not is_ended_lane(noted[1], noted[2], noted[3]) then
    reopened[#reopened + 1] = name
  elseif tonumber(string.match(noted[3], '^%d+')) <= proven_to
    and (not noted[2] or archived['snapshot:' .. name] == string.match(noted[2], '(%S+)$')) then
    over[name] = {key = KEYS[7 + i], last = tonumber(string.match(noted[1] or '0', '^%d+')),
      revision = tonumber(noted[2] and string.match(noted[2], '^%d+ (%d+) ')
        or call('HGET', KEYS[2], gone_field(name)) or 0)}
  end
end

-- the lanes of what is archived now, and fields that `lanes` has and meta has not
local touched, stale = {}, {}
if is_indexed then
  local fields = {}
  for i = 9, 8 + tonumber(ARGV[8]) do
    fields[#fields + 1], fields[#fields + 2] = 'since:' .. ARGV[i], 'snapshot:' .. ARGV[i]
  end
  local found = some_of(KEYS[2], fields)
  for i = 9, 8 + tonumber(ARGV[8]) do
    touched[ARGV[i]] = {since = found['since:' .. ARGV[i]], snapshot = found['snapshot:' .. ARGV[i]]}
  end
end

-- Of an indexed run: the fields `since` that hold trimming back the furthest. Those of lanes without a snapshot of their
-- own count where the run has none.
local function first_since(of_run)
  local first = {}
  for lane, known in pairs(touched) do
    if known.since and not over[lane] and (known.snapshot or not of_run) then first['since:' .. lane] = known.since end
  end
  local bounds = {{1, '(' .. text(no_own_snapshot)}, not of_run and {text(no_own_snapshot), '(9e15'} or nil}
  for i = 1, #bounds do
    local fields = call('ZRANGEBYSCORE', KEYS[7], bounds[i][1], bounds[i][2], 'LIMIT', 0, 100 + count_ended)
    for j = 1, #fields do
      local is_over = over[string.sub(fields[j], 7)]
      first[fields[j]] = not is_over and call('HGET', KEYS[2], fields[j]) or nil
      if first[fields[j]] then break end
      if j == 100 + count_ended then -- what comes after it begins there or later; another settling finds more of them
        first[fields[j]] = text(tonumber(call('ZSCORE', KEYS[7], fields[j])) % no_own_snapshot)
      end
      if not is_over then stale[#stale + 1] = fields[j] end
    end
  end
  return first
end

-- Of an indexed run: what is noted of those snapshots that are archived, and of the run's own.
local function snapshots_of(archived_tokens)
  local fields = {'snapshot'}
  for field in pairs(archived_tokens) do fields[#fields + 1] = field end
  return some_of(KEYS[2], fields)
end

-- Makes `lanes` anew from all of meta.
local function make_index()
  call('DEL', KEYS[7])
  call('ZADD', KEYS[7], 'inf', '')
  for field, value in pairs(meta) do
    local kind, lane = string.match(field, '^(%l+):(.*)$')
    if kind == 'since' then
      index_since(KEYS[7], lane, value, meta['snapshot:' .. lane])
    elseif kind == 'snapshot' then
      local token = string.match(value, '(%S+)$')
      if token ~= meta['proven:' .. lane] and not (ARGV[5] == '' and token == archived[field]) then
        index_unproven(KEYS[7], field)
      end
    elseif kind == 'end' then
      index_ended(KEYS[7], lane)
    end
  end
end

-- the last offset that nobody needs from Redis any more
local limit, trim, retires_idle = 0, string.match(ARGV[4], '^(%l+)( ?%l*)$')
if trim == 'archived' then
  limit = proven_to
elseif trim == 'covered' then
  limit = proven_to
  local of_run = meta['snapshot']
  if of_run then limit = math.min(limit, tonumber(string.match(of_run, '^%d+'))) end
  for field, value in pairs(is_indexed and first_since(of_run) or meta) do
    -- a lane is recovered from its first event that its snapshot does not cover; a lane without a snapshot of its
    -- own is covered by the run's, if there is one
    local lane = string.match(field, '^since:(.*)$')
    if lane and not over[lane] and (is_indexed or meta['snapshot:' .. lane] or not of_run) then
      limit = math.min(limit, tonumber(value) - 1)
    end
  end
end

-- the highest seq of what leaves Redis: readers who want only higher ones can do without it
local noted_to, noted = string.match(meta['peak'] or '', '^(%d+) (%d+)$')
noted_to = tonumber(noted_to) or math.min(offset_of(meta['start']), offset_of(meta['base'] or meta['start']))
noted = noted or '0'
local after, upto, seq = string.match(ARGV[6], '^(%d+) (%d+) (%d+)$')
local is_held_back = false
if after and tonumber(after) <= noted_to then
  local known_to = math.max(tonumber(upto), noted_to)
  if limit > known_to then limit, is_held_back = known_to, true end
  -- compared as text: Lua's numbers have not all of the 64 bits
  if #seq < #noted or (#seq == #noted and seq < noted) then seq = noted end
else
  seq = nil
end

local trimmed = call('XTRIM', KEYS[1], 'MINID', text(limit + 1))
if required then call('HSET', KEYS[4], unpack(required)) end
call('HSET', KEYS[2], 'mark', proven)
if seq and limit > noted_to then
  noted_to = limit
  call('HSET', KEYS[2], 'peak', text(limit) .. ' ' .. seq)
end
if trim == 'covered' and limit > tonumber(meta['trimmed'] or 0) then
  call('HSET', KEYS[2], 'trimmed', text(limit)) -- no snapshot may cover less from now on
end
call('HDEL', KEYS[5], ARGV[1])

local ended = call('HGET', KEYS[2], 'ended')
local ended_at, ended_revision = string.match(ended or '', '^(%d+) (%d+)$')

-- Removes what is noted of a lane, and its snapshot: all of it is archived, and nothing of it is left here.
local function remove_lane(name, lane)
  local fields = {'lane:', 'since:', 'gaps:', 'snapshot:', 'proven:', 'end:', 'back:', 'answer:'}
  for i = 1, #fields do
    fields[i] = fields[i] .. name
    meta[fields[i]] = nil
  end
  call('HDEL', KEYS[2], gone_field(name), unpack(fields))
  call('DEL', lane.key)
  if is_large then call('ZREM', KEYS[7], 'since:' .. name, 'snapshot:' .. name, 'end:' .. name) end
  touched[name] = nil
  -- from here on not all lanes are known: that people have said nothing yet is noted, so that they can
  if name ~= 'answers' and not ended_at
    and call('HEXISTS', KEYS[2], 'retired') + call('HEXISTS', KEYS[2], 'lane:answers') == 0 then
    call('HSET', KEYS[2], 'lane:answers', '0 +0')
  end
  ended_at = math.max(tonumber(ended_at or 0), lane.last)
  ended_revision = math.max(tonumber(ended_revision or 0), lane.revision)
end
local gone_to = math.max(limit, tonumber(meta['trimmed'] or 0))
-- Nothing leaves with 'never', which is also said where a snapshot does not read, and where `ended` is damaged; nor while
-- something is to be erased: an archive's snapshots that may hold that are nobody's to load, those that came after it too.
local to_erase = is_to_erase()
local may_leave, has_left = trim ~= 'never' and (ended_at or not ended) and not to_erase, false
for name, lane in pairs(over) do
  if may_leave and lane.last <= gone_to then
    remove_lane(name, lane)
    has_left = true
  end
end
if has_left then call('HSET', KEYS[2], 'ended', text(ended_at) .. ' ' .. text(ended_revision)) end
for i = 1, #reopened do
  call('HDEL', KEYS[2], 'end:' .. reopened[i])
  meta['end:' .. reopened[i]] = nil
  if is_large then call('ZREM', KEYS[7], 'end:' .. reopened[i]) end
end

local done = offset == offset_of(meta['last']) and not is_held_back
for field, value in pairs(is_indexed and snapshots_of(archived) or meta) do
  local ending = string.match(field, '^end:(.*)$')
  if ending and not was_ended[ending] then -- since the worker has looked
    done = false
  elseif is_snapshot(field) then
    local token, note = string.match(value, '(%S+)$'), 'proven' .. string.sub(field, 9)
    if archived[field] ~= token then
      done = false
    elseif ARGV[5] == '' and (is_indexed or meta[note] ~= token) then
      call('HSET', KEYS[2], note, token)
      if is_indexed then call('ZREM', KEYS[7], field) end
    end
  end
end
if meta['tags'] and archived['tags'] ~= meta['tags'] then
  done = false
elseif meta['tags'] and ARGV[5] == '' and meta['tagsproven'] ~= meta['tags'] then
  call('HSET', KEYS[2], 'tagsproven', meta['tags'])
end
if to_erase then done = false end
if is_indexed then
  local endings = call('ZRANGEBYSCORE', KEYS[7], -1, -1, 'LIMIT', 0, 100 + count_ended)
  for i = 1, #endings do
    if not was_ended[string.sub(endings[i], 5)] then
      if call('HEXISTS', KEYS[2], endings[i]) == 1 then done = false else call('ZREM', KEYS[7], endings[i]) end
    end
  end
  local unproven = call('ZRANGEBYSCORE', KEYS[7], 0, 0, 'LIMIT', 0, 100)
  if #unproven == 100 then done = false end
  for i = 1, #unproven do
    if call('HEXISTS', KEYS[2], unproven[i]) == 1 then
      done = false
    else
      call('ZREM', KEYS[7], unproven[i]) -- the append that was to save it was refused in its midst
    end
  end
  for lane, known in pairs(touched) do index_since(KEYS[7], lane, known.since, known.snapshot) end
  for i = 1, #stale do call('ZREM', KEYS[7], stale[i]) end
elseif is_large then
  make_index()
end
if is_large then
  call('HSET', KEYS[2], 'indexed', proven)
elseif meta['indexed'] then -- many lanes have left
  call('DEL', KEYS[7])
  call('HDEL', KEYS[2], 'indexed')
end

if ARGV[5] ~= '' then
  call('ZADD', KEYS[3], 'XX', text(clock() + tonumber(ARGV[5])), ARGV[1])
elseif done then
  call('ZREM', KEYS[3], ARGV[1])
  if retires_idle ~= '' or is_ended(meta['status']) then call('ZADD', KEYS[6], meta['updated'], ARGV[1]) end
else
  call('ZADD', KEYS[3], text(due_again()), ARGV[1])
end
return {'ok', trimmed, done and '1' or '0', text(noted_to)}
