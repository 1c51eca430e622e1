-- Adds entries to a history that is refilled beside its run, under keys that only its restorer knows.
--
-- KEYS  1 refilled events  2 refilled keys
-- ARGV  1 for how long the refilled history outlives its restorer (milliseconds)  2 number of entries
--       then for each entry: its cursor, its record
--       then for each of the callers' keys: the key, the cursor of its event
--
-- Replies the number of entries that are there now.
--
-- After it: the entries are there, each once: those that were there already are skipped, so the same call may be sent
-- again. Both keys expire after ARGV[1].

local last = call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local reached = last and parse_cursor(last[1]) or -1
local at = 3
for _ = 1, tonumber(ARGV[2]) do
  if parse_cursor(ARGV[at]) > reached then call('XADD', KEYS[1], ARGV[at], 'e', ARGV[at + 1]) end
  at = at + 2
end
for i = at, #ARGV, 4000 do -- Lua unpacks no more than some 8000 values
  call('HSET', KEYS[2], unpack(ARGV, i, math.min(i + 3999, #ARGV)))
end
call('PEXPIRE', KEYS[1], ARGV[1])
call('PEXPIRE', KEYS[2], ARGV[1])
return call('XLEN', KEYS[1])
