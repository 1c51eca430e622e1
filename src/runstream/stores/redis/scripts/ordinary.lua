-- The ordinary append, put before common.lua and append.lua: events of one lane that the run knows, right after
-- what their writer saw last, with nothing in the way and nothing asked for besides.
-- Keys and arguments are append.lua's, and so is what holds after it. What is not ordinary goes on there.
--
-- Replies, if it was applied, words separated by single spaces: last place, server time, former last offset of the lane
--
-- It is written for speed, since it is what an agent waits for at every event: a server that has just woken up
-- pays for each thing that a script touches three times what it costs in a loop.

local call, format, match = redis.call, string.format, string.match
local KEYS, ARGV = KEYS, ARGV -- globals are looked up at each use
local run_id, session, producer, seen, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[7]
local of_lane = 'lane:' .. lane

local time = call('TIME')
local now = time[1] .. format('%06d', time[2])
local meta = call('HMGET', KEYS[2], 'start', 'last', 'session', 'lease', of_lane, 'since:' .. lane,
  'lease:' .. lane, 'retired', 'by', 'mark', 'updated')
local by = meta[9]

-- Adds a record after the last event, whose place these are.
local offset, chain, last, at
local function add(record)
  local a, b, c, d = string.byte(record, 2, 5)
  offset, chain = offset + 1, (chain * 1021 + a * 16777216 + b * 65536 + c * 256 + d) % 8796093022151
  at = format('%.0f', offset)
  last = at .. format('-%.0f', chain)
  call('XADD', KEYS[1], last, 'e', record)
end

-- a batch that was applied before has moved the run on, so that it is not ordinary when it comes again, however late
if seen == meta[2] and meta[5] and session == (meta[3] or '') and not (meta[4] or meta[7] or meta[8])
  and not (by and string.sub(by, 1, #producer) ~= producer) then
  local before = match(meta[5], '^%d+')
  offset, chain = match(seen, '^(%d+)-(%d+)$')
  local first = offset + 1
  for i = 9, #ARGV do add(ARGV[i]) end
  call('HSET', KEYS[2], 'last', last, 'updated', now, of_lane, at .. ' ' .. ARGV[8],
    'by', producer .. ' ' .. ARGV[4] .. ' ' .. seen .. ' ' .. before)
  if not meta[6] then call('HSET', KEYS[2], 'since:' .. lane, format('%.0f', first)) end
  -- the lists of runs are right to the second
  if string.sub(meta[11], 1, -7) ~= string.sub(now, 1, -7) then
    call('ZADD', KEYS[4], now, run_id)
    if session ~= '' then call('ZADD', KEYS[8], now, run_id) end
  end
  -- where some of what came before is not archived, it is due already
  if meta[10] == seen then call('ZADD', KEYS[5], 'NX', now, run_id) end
  return last .. ' ' .. now .. ' ' .. before
end
