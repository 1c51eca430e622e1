-- Loads what is noted of a run, as far as whoever archives it needs it.
--
-- KEYS  1 meta  2 lanes
--
-- Replies fields of meta and their values: all of them; of a run that settling has indexed (see settle.lua), those that
--         are not of single lanes, and those of the lanes that were ended, whose snapshots are not proven, or that hold
--         trimming back the furthest.
--
-- It writes nothing.

local fields = {'start', 'last', 'mark', 'status', 'session', 'created', 'updated', 'parent', 'retired', 'peak', 'snapshot',
  'proven', 'indexed', 'tags', 'tagsproven', 'erasures', 'erased', 'base', 'origin'}
local meta = some_of(KEYS[1], fields)
if not meta['indexed'] or meta['indexed'] ~= meta['mark'] or not is_index(KEYS[2]) then
  return call('HGETALL', KEYS[1])
end

local function add(found)
  for i = 1, #found do
    local lane = string.match(found[i], '^%l+:(.*)$')
    fields[#fields + 1], fields[#fields + 2], fields[#fields + 3] = 'since:' .. lane, 'snapshot:' .. lane, 'proven:' .. lane
  end
end
add(call('ZRANGEBYSCORE', KEYS[2], 0, 0))
local ended = call('ZRANGEBYSCORE', KEYS[2], -1, -1)
add(ended)
for i = 1, #ended do
  fields[#fields + 1], fields[#fields + 2] = ended[i], 'lane:' .. string.sub(ended[i], 5)
end
add(call('ZRANGEBYSCORE', KEYS[2], 1, '(' .. text(no_own_snapshot), 'LIMIT', 0, 1))
add(call('ZRANGEBYSCORE', KEYS[2], text(no_own_snapshot), '(9e15', 'LIMIT', 0, 1))

local reply = {}
for field, value in pairs(some_of(KEYS[1], fields)) do reply[#reply + 1], reply[#reply + 2] = field, value end
return reply
