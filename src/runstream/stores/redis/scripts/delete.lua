-- Removes all that Redis holds of a run.
--
-- KEYS  1 events  2 meta  3 producers  4 keys  5 runs  6 session  7 due  8 parked  9 deleted  10 retire
--       11 retired  12 leftovers  13 lanes  14 tags  15 forks; then its snapshots, and what was noted to be erased;
--       then the indexes of its tags
-- ARGV  1 run id  2 the run's start (it names this very run); '' if its meta is damaged and has none that
--         can be read  3 its session
--       4 number of snapshots  5 for how long the deletion is remembered (microseconds)
--       6 the version of its tags, '' for none; then their names
--
-- Replies 1
--         0          this very run is not there any more
--         -1         it has more snapshots, other tags or another session than the caller knew, or forks: read it again
--         {'held', field, owner, microseconds}  a lease of it is in force, for so long
--
-- After 1: nothing of the run is left; to whoever knew its history it counts as deleted, not as lost.
-- After any other reply nothing was changed. DEL is the first write: it frees memory, so a full server takes it.

local now, indexes = clock(), #ARGV - 6
local meta, snapshots = call('TYPE', KEYS[2])['ok'] == 'hash' and all_of(KEYS[2]) or {}, 0
for field in pairs(meta) do
  if is_snapshot(field) then snapshots = snapshots + 1 end
end
if (meta['start'] or '') ~= ARGV[2] then return 0 end
for field, value in pairs(meta) do
  -- a lease that is damaged is nobody's
  local refusal = string.match(field, '^lease') and string.match(value, '^%d+ %d+ %S+ %S+ ') and held(field, value, now)
  if refusal then return refusal end
end
if meta['start'] and snapshots ~= tonumber(ARGV[4]) or (meta['session'] or '') ~= ARGV[3]
  or meta['start'] and (meta['tags'] or '') ~= ARGV[6] or call('EXISTS', KEYS[15]) == 1 then return -1 end
call('DEL', KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[13])
unindex_tags(KEYS[14], ARGV[1], 7)
for i = 14, #KEYS - indexes do call('DEL', KEYS[i]) end
call('ZREM', KEYS[5], ARGV[1])
redis.pcall('ZREM', KEYS[6], ARGV[1]) -- where the session's set is damaged, the run goes all the same
call('ZREM', KEYS[7], ARGV[1])
call('HDEL', KEYS[8], ARGV[1])
call('ZREM', KEYS[10], ARGV[1])
call('ZREM', KEYS[11], ARGV[1])
call('ZREM', KEYS[12], ARGV[1])
call('ZREMRANGEBYSCORE', KEYS[9], '-inf', text(now - tonumber(ARGV[5])))
local history = string.match(ARGV[2], '%d+$')
if history then call('ZADD', KEYS[9], text(now), history) end
return 1
