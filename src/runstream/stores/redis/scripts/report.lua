-- Notes a worker's report on itself, and forgets workers that have been silent for long.
--
-- KEYS  1 workers
-- ARGV  1 the worker's name  2 its report: a JSON object that is not empty
--       3 for how long a silent worker is remembered (microseconds)
--
-- Replies 1
--
-- After it: the worker's field holds the report, with the server's time in seconds as "seen_at" before the rest.

local now = clock()
call('HDEL', KEYS[1], '') -- a full server takes this, and then the rest; see common.lua
local fields = call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local seen = tonumber(string.match(fields[i + 1], '^{"seen_at":([%d.]+)'))
  if not seen or seen * 1000000 < now - tonumber(ARGV[3]) then call('HDEL', KEYS[1], fields[i]) end
end
call('HSET', KEYS[1], ARGV[1], format('{"seen_at":%.6f,', now / 1000000) .. string.sub(ARGV[2], 2))
return 1
