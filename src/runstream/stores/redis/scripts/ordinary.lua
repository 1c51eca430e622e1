-- The ordinary append, put before common.lua and append.lua: events of one lane, by a producer and to a lane that
-- the run knows, right after what their writer saw last, with nothing in the way and nothing asked for besides.
-- Keys, arguments and replies are append.lua's, and so is what holds after it. What is not ordinary goes on there.
--
-- It is written for speed, since it is what an agent waits for at every event: a server that has just woken up
-- pays for each thing that a script touches three times what it costs in a loop.

local call, format, match = redis.call, string.format, string.match
local run_id, session, producer, seen, asked, lane = ARGV[1], ARGV[2], ARGV[3], ARGV[6], ARGV[9], ARGV[10]

local time = call('TIME')
local now = time[1] .. format('%06d', time[2])
local sent = call('HGET', KEYS[3], producer)
local meta = call('HMGET', KEYS[2], 'start', 'last', 'session', 'lease',
  'lane:' .. lane, 'since:' .. lane, 'lease:' .. lane, 'retired')

-- a batch that was applied before has moved the run on, so that it is not ordinary when it comes again
if asked == '' and seen == meta[2] and sent and meta[5] and session == (meta[3] or '')
  and not (meta[4] or meta[7] or meta[8]) then
  local offset, chain = match(seen, '^(%d+)-(%d+)$')
  local last
  for i = 13, #ARGV do
    local a, b, c, d = string.byte(ARGV[i], 2, 5)
    offset, chain = offset + 1, (chain * 1021 + a * 16777216 + b * 65536 + c * 256 + d) % 8796093022151
    last = format('%.0f-%.0f', offset, chain)
    call('XADD', KEYS[1], last, 'e', ARGV[i])
  end
  call('HSET', KEYS[2], 'last', last, 'updated', now, 'lane:' .. lane, match(last, '^%d+') .. ' ' .. ARGV[11])
  if not meta[6] then call('HSET', KEYS[2], 'since:' .. lane, format('%.0f', match(seen, '^%d+') + 1)) end
  call('ZADD', KEYS[4], now, run_id)
  if session ~= '' then call('ZADD', KEYS[8], now, run_id) end
  call('ZADD', KEYS[5], 'NX', now, run_id)
  local reply = ARGV[4] .. ' ' .. seen .. ' ' .. last .. ' 0 0 ' .. meta[1] .. ' ' .. now .. ' '
    .. match(meta[5], '^%d+')
  call('HSET', KEYS[3], producer, reply)
  return reply
end
