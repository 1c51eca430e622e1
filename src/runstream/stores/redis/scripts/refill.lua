-- Adds entries to a history that is being refilled beside its run, where only the one who refills it looks.
--
-- KEYS  1 refilled events  2 refilled keys
-- ARGV  1 for how long what is refilled outlives its maker (milliseconds)  2 number of entries
--       then for each entry: its place, its record
--       then for each of the callers' keys: the key, the place of its event
--
-- Replies the number of entries that are there now. Those that are there already are passed over, so that the
-- same call may be sent again.

local last = call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1]
local reached = last and place(last[1]) or -1
local at = 3
for _ = 1, tonumber(ARGV[2]) do
  if place(ARGV[at]) > reached then call('XADD', KEYS[1], ARGV[at], 'e', ARGV[at + 1]) end
  at = at + 2
end
for i = at, #ARGV, 4000 do -- Lua unpacks no more than some 8000 values
  call('HSET', KEYS[2], unpack(ARGV, i, math.min(i + 3999, #ARGV)))
end
call('PEXPIRE', KEYS[1], ARGV[1])
call('PEXPIRE', KEYS[2], ARGV[1])
return call('XLEN', KEYS[1])
