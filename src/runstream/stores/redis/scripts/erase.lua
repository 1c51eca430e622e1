-- Notes that the content of some of a run's entries is to be erased, or that its history is to begin later.
--
-- KEYS  1 meta  2 erasures  3 due  4 forks  5 events; then the snapshots that are to go with it
-- ARGV  1 run id  2 the run's start (its last number names this very run)  3 a token, which names the request
--       4 the lease's field in meta, or ''  5 its epoch and token, separated by a space, or ''
--       6 what is to go: 'FIRST-LAST,FIRST-LAST,…', offsets, rising, '-LAST' being left out where it is the same one; or '<'
--         and the offset with which the history is to begin
--       7 the cursor before that offset, or ''  8 the cursor that the caller saw last, or ''  9 '1' if snapshots may go; or
--         what was noted here of those that left Redis (see 'away') when the caller began to look whether they hold, or
--         need, something of it: none does; or ''
--       10 the number of the snapshots that go; their fields in meta; then the field and the token of each that holds
--          nothing of it, or needs nothing of it
--
-- Replies {'ok', number, server time}  it is noted as the request of that number, by this call or an earlier one
--         {'gone'}                      this very run is not there any more
--         {'unleased'}                  the lease that it carries has passed to another owner or expired
--         {'held', field, owner, microseconds}  another lease is in force, for so long
--         {'lost', last}                the run ends there, before the cursor that the caller saw
--         {'diverged', cursor}          the run has another history than that of this cursor of the caller's
--         {'outside', first, last}      the run has these events alone
--         {'forks'}                     runs were forked from it, or are about to be, that need some of what is to go
--         {'snapshots', field, what meta has in it, …}  these snapshots may hold something of it, and would have to go; or
--                                       they may need it
--         {'away', what is noted of them}  snapshots that left Redis may hold something of it, or need it
--         {'changed'}                   it has other snapshots that go than the caller knew: read its meta again
--
-- After 'ok': erasures has the request under its number, 'TIME TOKEN WHAT'; the numbers count from 1, and meta's
-- `erasures` has the last one. The run is due until a settling notes that number in `erased`. The snapshots that may hold
-- something of what goes are gone: those that cover it, and those that cover nothing, so that nobody knows what they were
-- made from; their lanes are recovered from their first events. What is saved later has a higher revision than `dropped`.
-- Meta's `questions`, answers and `cancel` have nothing of it any more. Or meta's `base` has the cursor before the first
-- event that counts, and the mark and `trimmed` are no lower.
-- After any other reply nothing was changed. HDEL is the first write: a full server takes it, and then the rest.

local now, meta = clock(), all_of(KEYS[1])
if meta['start'] ~= ARGV[2] then return {'gone'} end
local number, same, same_at = tonumber(meta['erasures'] or 0), nil, nil
for field, value in pairs(all_of(KEYS[2])) do
  if string.match(field, '^%d+$') then
    number = math.max(number, tonumber(field))
    local at, token, what = string.match(value, '^(%d+) (%S+) (.*)$')
    if token == ARGV[3] then return {'ok', field, at} end
    if what == ARGV[6] then same, same_at = field, at end
  end
end

-- the lease that it carries, and leases that exclude it
local mine = nil
if ARGV[4] ~= '' then
  local of_mine, token, epoch, _
  of_mine, mine = string.match(ARGV[5], '^(%d+) (%S+)$')
  token, _, _, epoch = lease_in_force(meta[ARGV[4]], now, mine)
  if token ~= mine or epoch ~= of_mine then return {'unleased'} end
end
for field, value in pairs(meta) do
  local refusal = string.match(field, '^lease') and held(field, value, now, mine)
  if refusal then return refusal end
end

-- the history that it means
local start, last = parse_cursor(ARGV[2]), parse_cursor(meta['last'])
local mark = meta['mark'] or is_tombstone(meta['retired']) and meta['last'] or meta['start']
if ARGV[8] ~= '' and parse_cursor(ARGV[8]) > last then return {'lost', text(last)} end
for i = 7, 8 do
  local at = ARGV[i] ~= '' and parse_cursor(ARGV[i])
  -- what was trimmed beyond the mark cannot be compared
  local known = at and {meta['last'], mark,
    (call('XRANGE', KEYS[5], text(at), text(at))[1] or {})[1]} or {}
  for j = 1, 3 do
    if known[j] and parse_cursor(known[j]) == at and known[j] ~= ARGV[i] then return {'diverged', ARGV[i]} end
  end
end

-- what goes
local begin = meta['base'] and parse_cursor(meta['base']) or start
local whole = meta['base'] and begin or begin_of(ARGV[2]) -- with what a fork shares
local before = tonumber(string.match(ARGV[6], '^<(%d+)$') or nil)
local is_sharing = not meta['base'] and whole < start
local spans = {}
for first, upto in string.gmatch(before and '' or ARGV[6], '(%d+)%-?(%d*)') do
  spans[#spans + 1] = {tonumber(first), tonumber(upto ~= '' and upto or first)}
end
local first = spans[1] and spans[1][1]
local function goes(offset)
  for i = 1, #spans do
    if spans[i][1] <= offset and offset <= spans[i][2] then return true end
  end
  return false
end
if same and before then return {'ok', same, same_at} end
-- what a fork shares is erased at its parent: at the fork it is noted, and snapshots go
local is_shared = first and begin_of(ARGV[2]) < start and spans[#spans][2] <= start
if first and not is_shared and (first <= begin or spans[#spans][2] > last) or before and (before <= begin or before > last + 1) then
  return {'outside', text(begin + 1), text(last)}
end
if before then
  for _, fork in pairs(all_of(KEYS[4])) do
    local at = string.match(fork, '^%a+ %d+ (%d+)')
    if not at or tonumber(at) > whole then return {'forks'} end
  end
end

-- the snapshots that are in the way, those that left Redis too, and the highest revision that there ever was
local at_given = 11 + tonumber(ARGV[10])
local sound, here, asked, dropped = {}, {}, {}, tonumber(meta['dropped'] or 0)
for i = at_given, #ARGV, 2 do sound[ARGV[i]] = ARGV[i + 1] end
local function is_asked(field, value)
  local covered, token = string.match(value, '^(%d+) %d+ (%S+)$')
  covered = tonumber(covered)
  if first then return token ~= sound[field] and (covered >= first or covered <= whole) end
  if token == sound[field] or covered >= math.min(before - 1, last) then return false end
  local lane = string.match(field, '^snapshot:(.*)$')
  if not lane then return true end
  if is_ended_lane(meta['lane:' .. lane], value, meta['end:' .. lane]) then return false end
  -- what a fork shares may have events of any lane
  return is_sharing or tonumber(meta['since:' .. lane] or before) < before
end
for field, value in pairs(meta) do
  if is_snapshot(field) then
    if is_asked(field, value) then asked[field] = value end
    here[field == 'snapshot' and field or gone_field(string.sub(field, 10))] = true
    dropped = math.max(dropped, tonumber(string.match(value, '^%d+ (%d+)')))
  end
end
-- what tells which snapshots left Redis, and of which lanes: it is another text once one leaves, or is gone on from again
local left = {ARGV[2]}
for field, value in pairs(meta) do
  if field == 'retired' or field == 'ended' or string.match(field, '^gone[:#]') or string.match(field, '^back:')
    or string.match(field, '^end:') then
    left[#left + 1] = field .. ' ' .. value
  end
end
table.sort(left)
left = table.concat(left, '\n')
-- Notes of a field whose snapshot is archived alone.
local is_away = false
local function away(field, revision)
  if ARGV[9] ~= left and revision > 0 and not here[field] then is_away = true end
  dropped = math.max(dropped, revision)
end
for field, value in pairs(meta) do
  if string.match(field, '^gone[:#]') then away(field, tonumber(value)) end
  local back = string.match(field, '^back:(.*)$')
  if back then away(gone_field(back), tonumber(value)) end
end
local of_run, of_lanes = parse_retired(meta['retired'], last)
if of_run then away('snapshot', of_run) end
local ended = tonumber(string.match(meta['ended'] or '0', '(%d+)$'))
if before then dropped = math.max(dropped, ended) else away('ended', ended) end -- nobody goes on from one that is ended
dropped = math.max(dropped, of_lanes or 0)
if is_away and ARGV[9] ~= '1' then return {'away', left} end
if next(asked) and ARGV[9] ~= '1' then
  local named = {}
  for field, value in pairs(asked) do named[#named + 1], named[#named + 2] = field, value end
  return {'snapshots', unpack(named, 1, math.min(#named, 2000))}
end
if same and not next(asked) and not is_away then return {'ok', same, same_at} end
for i = 11, at_given - 1 do
  if not asked[ARGV[i]] then return {'changed'} end
  asked[ARGV[i]] = nil
end
if next(asked) then return {'changed'} end

call('HDEL', KEYS[2], '')
number = text(number + 1)
call('HSET', KEYS[2], number, table.concat({text(now), ARGV[3], ARGV[6]}, ' '))
call('ZADD', KEYS[3], 'NX', text(now), ARGV[1])
local changes, gone = {'erasures', number}, {'indexed'} -- a worker looks at all lanes again
local function change(field, value) changes[#changes + 1], changes[#changes + 2] = field, value end
if before then
  change('base', ARGV[7])
  change('trimmed', text(math.max(before - 1, tonumber(meta['trimmed'] or 0))))
  if not is_tombstone(meta['retired']) and parse_cursor(mark) < before then
    change('mark', ARGV[7])
  end
else
  change('dropped', text(dropped))
  -- whoever has loaded a state that has left Redis may save what it holds: what it goes on from is another one by now
  for field, value in pairs(is_away and meta or {}) do
    if string.match(field, '^gone[:#]') or string.match(field, '^back:') then change(field, text(dropped + 1)) end
  end
  local of_retired = is_away and meta['retired']
  if of_retired then
    change('retired', (string.gsub(of_retired, '^(%d+) (%d+)', function(of_run, of_lanes)
      return (of_run == '0' and '0' or text(dropped + 1)) .. ' ' .. (of_lanes == '0' and '0' or text(dropped + 1))
    end)))
  end
  if is_away and ended > 0 then change('ended', string.match(meta['ended'], '^%d+') .. ' ' .. text(dropped + 1)) end
  if is_away and meta['unlisted'] and meta['unlisted'] ~= '0' then change('unlisted', text(dropped + 1)) end
end
for i = 11, at_given - 1 do
  call('DEL', KEYS[i - 5])
  gone[#gone + 1], gone[#gone + 2] = ARGV[i], 'proven' .. string.sub(ARGV[i], 9)
  local lane = string.match(ARGV[i], '^snapshot:(.*)$')
  if lane then change('since:' .. lane, text(begin + 1)) end
  local ending = lane and meta['end:' .. lane]
  if ending then -- with it, or the lane was opened again by it, and is not ended by having none
    local token = string.match(meta[ARGV[i]], '(%S+)$')
    change('end:' .. lane, string.match(ending, '^%d+ ') .. (token == string.match(ending, '(%S+)$') and '-' or token))
  end
end

-- what people were asked, and have said, in the words of what goes
local questions = {}
for lane, question, at, answer, words in string.gmatch(meta['questions'] or '', '(%x*) (%x*) (%d+) (%d+) (%x*)') do
  if goes(tonumber(at)) then words = '' end
  if goes(tonumber(answer)) then gone[#gone + 1] = 'answer:' .. unhex(lane) end
  questions[#questions + 1] = table.concat({lane, question, at, answer, words}, ' ')
end
if questions[1] then change('questions', table.concat(questions, ',')) end
local cancel = string.match(meta['cancel'] or '', '^%d+')
if cancel and goes(tonumber(cancel)) then change('cancel', cancel .. ' ') end

for i = 1, #gone, 4000 do call('HDEL', KEYS[1], unpack(gone, i, math.min(i + 3999, #gone))) end
for i = 1, #changes, 4000 do call('HSET', KEYS[1], unpack(changes, i, math.min(i + 3999, #changes))) end
return {'ok', number, text(now)}
