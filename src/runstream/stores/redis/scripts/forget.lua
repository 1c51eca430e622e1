-- Forgets a retired run that has ended: its tombstone goes, and all that was left beside it but its producers, which are
-- cleared a window after it was retired: a batch that is resent until then gets its first reply.
--
-- KEYS  1 events  2 meta  3 producers (not changed)  4 keys  5 runs  6 session  7 due  8 parked  9 deleted  10 retire
--       11 retired  12 leftovers (not touched)  13 lanes
--       14 tags  15 forks  16 config of the partition  17 erasures; then the indexes of its tags
-- ARGV  1 run id  2 the run's start (it names this very run), '' if there is no run of that name
--       3 its session  4 how long it must have been retired  5 for how long a deletion is remembered (both
--         microseconds)  6 the version of its tags, '' for none; then their names
--
-- Replies 'ok'
--         'unfit'    it is not a tombstone, or no longer: taken off `retired`; retiring puts it back
--         'later'    it was retired more recently, is leased or has not ended: it will be checked again later
--         'forks'    there are forks of it, or there are to be: it will be checked again later
--         'changed'  it is another run of that name, or has another session or other tags; nothing was written
--
-- After 'ok' a run of that name is a new one; to whoever knew this history it counts as deleted, not as lost. The
-- first write is a ZREM or DEL: a full server takes it, and then the rest.

local now, quiet = clock(), tonumber(ARGV[4])
local score = call('ZSCORE', KEYS[11], ARGV[1])
local meta = all_of(KEYS[2])
if (meta['start'] or '') ~= ARGV[2] then return 'changed' end
if not score or not is_tombstone(meta['retired']) or call('ZSCORE', KEYS[7], ARGV[1]) then
  call('ZREM', KEYS[11], ARGV[1])
  return 'unfit'
end
if (meta['session'] or '') ~= ARGV[3] or (meta['tags'] or '') ~= ARGV[6] then return 'changed' end

local from = math.max(tonumber(score), last_expiry(meta, now) - quiet)
local has_ended = is_ended(meta['status']) -- if not, somebody may answer it, or go on with it
local has_forks = call('EXISTS', KEYS[15]) == 1 -- which read what they share with it by way of its tombstone
if not has_ended or has_forks or from > now - quiet then
  call('ZREM', KEYS[11], '') -- a full server takes this, and then the rest; see common.lua
  call('ZADD', KEYS[11], 'XX', text(has_ended and not has_forks and from or now), ARGV[1])
  return has_forks and 'forks' or 'later'
end

call('DEL', KEYS[1], KEYS[2], KEYS[4], KEYS[13], KEYS[17])
unindex_tags(KEYS[14], ARGV[1], 7)
call('DEL', KEYS[14])
note_forgotten(KEYS[16], math.max(tonumber(meta['forgotten'] or 0),
  lost_at(KEYS[3], meta['heard'], meta['updated'], meta['ahead'])))
call('ZREM', KEYS[5], ARGV[1])
redis.pcall('ZREM', KEYS[6], ARGV[1]) -- where the session's set is damaged, the run goes all the same
call('HDEL', KEYS[8], ARGV[1])
call('ZREM', KEYS[10], ARGV[1])
call('ZREM', KEYS[11], ARGV[1])
call('ZREMRANGEBYSCORE', KEYS[9], '-inf', text(now - tonumber(ARGV[5])))
call('ZADD', KEYS[9], text(now), string.match(ARGV[2], '%d+$'))
return 'ok'
