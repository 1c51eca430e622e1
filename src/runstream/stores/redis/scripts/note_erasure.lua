-- Notes what has become of a run's erasures in one place.
--
-- KEYS  1 meta  2 erasures
-- ARGV  1 the run's start (its last number names this very run)  2 the field: 'archive:UUID' or 'files'
--       3 its value, which begins with the number of the last request that is done there; behind that, in an archive,
--         why no more is
--
-- Replies 1, or 0 if this very run is not there any more, or more is done there: then nothing was changed. HDEL is the
-- first write: a full server takes it, and then the rest.

if call('HGET', KEYS[1], 'start') ~= ARGV[1] then return 0 end
local former = string.match(call('HGET', KEYS[2], ARGV[2]) or '0', '^%d+')
if tonumber(former) > tonumber(string.match(ARGV[3], '^%d+')) then return 0 end
call('HDEL', KEYS[2], '')
call('HSET', KEYS[2], ARGV[2], ARGV[3])
return 1
