-- Makes a fork: a run whose history is that of another one up to its start.
--
-- KEYS  1 events  2 meta  3 producers  4 tags  5 runs  6 due  7 config of the partition  8 deleted  9 session
--       then the index of each of its tags; then its snapshots
-- ARGV  1 run id  2 its start; the last number is its identity  3 partitions  4 session, or ''  5 the version of its tags, or
--       ''  6 number of tags; the name and value of each  then the number of snapshots; for each: its number of fields; the
--       fields and values  then the fields of meta and their values, without times
--
-- Replies {'ok'}               it is there, by this call or by a former one
--         {'there'}            another run of that name is there; nothing was written, as with all that follow
--         {'given up'}         it was given up, or has been deleted since
--         {'held', field, owner, microseconds}  a lease on that name is in force
--         {'partitions', n}    the namespace has n partitions
--
-- After 'ok': the fork is listed and in the indexes of its tags, has these snapshots and no events, and is due, so that the
-- archives get it. With `end:LANE` among the fields a lane is ended from the beginning: its snapshot leaves once
-- that is archived. Sent again, whenever that comes, it makes no second one: what was deleted or given up is in `deleted`
-- for as long as a deletion is remembered.

local now, meta = clock(), all_of(KEYS[2])
if meta['start'] == ARGV[2] then
  call('HDEL', KEYS[2], '') -- a write, so that WAIT covers the first one
  return {'ok'}
end
if meta['start'] or call('EXISTS', KEYS[1]) == 1 then return {'there'} end
if call('ZSCORE', KEYS[8], string.match(ARGV[2], '%d+$')) then return {'given up'} end
local has = call('HGET', KEYS[7], 'partitions')
if has and has ~= ARGV[3] then return {'partitions', has} end
for field, value in pairs(meta) do
  local refusal = string.match(field, '^lease') and held(field, value, now)
  if refusal then return refusal end
end

local created, tags, at = text(now), tonumber(ARGV[6]), 7
call('HSET', KEYS[7], 'partitions', ARGV[3])
call('DEL', KEYS[4])
call('PERSIST', KEYS[2]) -- up to 0.1.0, what a lease noted of a run that was not there yet was to expire
call('PERSIST', KEYS[3])
for i = 1, tags do
  call('HSET', KEYS[4], ARGV[at], ARGV[at + 1])
  if not index_tag(KEYS[9 + i], ARGV[1], nil, ARGV[at + 1]) then call('HDEL', KEYS[7], 'tagged') end
  at = at + 2
end
if ARGV[5] ~= '' then call('HSET', KEYS[4], '', ARGV[5]) end
local snapshots = tonumber(ARGV[at])
at = at + 1
for i = 1, snapshots do
  local key, after = KEYS[9 + tags + i], at + 1 + 2 * tonumber(ARGV[at])
  call('DEL', key)
  for j = at + 1, after - 1, 4000 do call('HSET', key, unpack(ARGV, j, math.min(j + 3999, after - 1))) end
  call('HSET', key, 'saved', created)
  at = after
end
call('ZADD', KEYS[5], created, ARGV[1])
if ARGV[4] ~= '' then call('ZADD', KEYS[9], created, ARGV[1]) end
call('ZADD', KEYS[6], 'NX', created, ARGV[1])
for i = at, #ARGV, 4000 do call('HSET', KEYS[2], unpack(ARGV, i, math.min(i + 3999, #ARGV))) end
call('HSET', KEYS[2], 'created', created, 'updated', created, 'start', ARGV[2])
return {'ok'}
