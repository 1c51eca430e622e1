-- Notes what a worker says of itself, and forgets workers that have been silent for long.
--
-- KEYS  1 workers
-- ARGV  1 the worker's name  2 what it says: a JSON object that is not empty
--       3 for how long a silent worker is remembered (microseconds)
--
-- After it: the worker's field holds that object, with the server's time in seconds as "seen_at" before the rest.

local now = clock()
call('HDEL', KEYS[1], '') -- as in claim.lua: a full server does not refuse this, nor what follows
local fields = call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local seen = tonumber(string.match(fields[i + 1], '^{"seen_at":([%d.]+)'))
  if not seen or seen * 1000000 < now - tonumber(ARGV[3]) then call('HDEL', KEYS[1], fields[i]) end
end
call('HSET', KEYS[1], ARGV[1], format('{"seen_at":%.6f,', now / 1000000) .. string.sub(ARGV[2], 2))
return 1
