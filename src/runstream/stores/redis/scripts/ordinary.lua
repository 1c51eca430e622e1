-- The ordinary append, put before common.lua and append.lua: events of one lane that the run knows, right after
-- what their writer saw last, with nothing in the way and nothing asked for besides.
-- Keys, arguments and replies are append.lua's, and so is what holds after it. What is not ordinary goes on there.
--
-- It is written for speed, since it is what an agent waits for at every event: a server that has just woken up
-- pays for each thing that a script touches three times what it costs in a loop.

local call, format, match = redis.call, string.format, string.match
local run_id, session, producer, seen, asked, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[6], ARGV[9], ARGV[10]

local time = call('TIME')
local now = time[1] .. format('%06d', time[2])
local meta = call('HMGET', KEYS[2], 'start', 'last', 'session', 'lease',
  'lane:' .. lane, 'since:' .. lane, 'lease:' .. lane, 'retired')

-- Keeps the reply with the producer, and gives it. When that is new to the run, those that were silent for too long
-- are forgotten, so that a run does not remember every process that ever wrote to it.
local function remember(reply)
  if call('HSET', KEYS[3], producer, reply) == 1 and call('HLEN', KEYS[3]) > 16 then
    local since = now - match(ARGV[8], '^%d+ (%d+)')
    local known = call('HGETALL', KEYS[3])
    for i = 1, #known, 2 do
      -- its time is the seventh part of what is kept, in the place of the reply that it has there
      local at = match(known[i + 1], '^%S+ %S+ %S+ %S+ %S+ %S+ (%d+)')
      if tonumber(at) < since then call('HDEL', KEYS[3], known[i]) end
    end
  end
  return reply
end

-- Adds a record after the last event, whose place these are.
local offset, chain, last
local function add(record)
  local a, b, c, d = string.byte(record, 2, 5)
  offset, chain = offset + 1, (chain * 1021 + a * 16777216 + b * 65536 + c * 256 + d) % 8796093022151
  last = format('%.0f-%.0f', offset, chain)
  call('XADD', KEYS[1], last, 'e', record)
end

-- a batch that was applied before has moved the run on, so that it is not ordinary when it comes again, however late
if asked == '' and seen == meta[2] and meta[5] and session == (meta[3] or '')
  and not (meta[4] or meta[7] or meta[8]) then
  offset, chain = match(seen, '^(%d+)-(%d+)$')
  for i = 13, #ARGV do add(ARGV[i]) end
  call('HSET', KEYS[2], 'last', last, 'updated', now, 'lane:' .. lane, match(last, '^%d+') .. ' ' .. ARGV[11])
  if not meta[6] then call('HSET', KEYS[2], 'since:' .. lane, format('%.0f', match(seen, '^%d+') + 1)) end
  call('ZADD', KEYS[4], now, run_id)
  if session ~= '' then call('ZADD', KEYS[8], now, run_id) end
  call('ZADD', KEYS[5], 'NX', now, run_id)
  return remember(ARGV[4] .. ' ' .. seen .. ' ' .. last .. ' 0 0 ' .. meta[1] .. ' ' .. now .. ' '
    .. match(meta[5], '^%d+'))
end
