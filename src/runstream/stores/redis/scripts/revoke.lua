-- Tells what became of a batch of which a request got no reply, and sees to it that it is never applied if it was not yet,
-- however late that comes: for one that is refused now, or that the server does not take again, as it may be too large.
--
-- KEYS  1 meta  2 producers  3 config of the partition  4 leftovers
-- ARGV  1 run id  2 producer  3 its batch number  4 when it was first sent, as for append.lua
--       5 for how long a silent producer is remembered (microseconds)
--
-- Replies what append.lua replies to a batch that is resent, if it was applied
--         {'revoked'}               it was not, or was revoked before
--         {'stale', time}           whether it was cannot be told, as with append.lua: its producer may be forgotten
--
-- After 'revoked': the producer is kept as one whose batch was answered, and `by` names another, so that neither way of
-- append.lua applies it; its former last cursor and its last one are the same. HDEL of '' is the first write: a full
-- server takes it, and then the rest.

local producer, batch, now = ARGV[2], tonumber(ARGV[3]), clock()
local meta = call('HMGET', KEYS[1], 'start', 'last', 'updated', 'by', 'heard', 'ahead')
local start, last, updated, by, heard, ahead = unpack(meta)
local by_producer, by_reply = reply_of(by, start, last, updated)
local sent = by_producer == producer and by_reply or call('HGET', KEYS[2], producer)
local sent_batch = sent and tonumber(string.match(sent, '^%S+')) or 0
local lost = sent and 0 or lost_at(KEYS[2], heard, updated, ahead)
if sent_batch > batch then return {'stale', text(now)} end
local stale = not sent and may_be_forgotten(ARGV[4], KEYS[1], KEYS[3], now, lost)
if stale then return {'stale', stale} end

if sent_batch == batch and is_revoked(sent) then return {'revoked'} end
call('HDEL', KEYS[2], '')
if sent_batch == batch then
  call('HSET', KEYS[2], producer, sent)
  return sent
end
if by_producer then call('HSET', KEYS[2], by_producer, by_reply) end
if lost > 0 then note_forgotten(KEYS[1], lost) end
local revoked_at = hears_at(ARGV[4], now, sent)
if last then
  call('HSET', KEYS[1], 'heard', text(math.max(revoked_at, tonumber(heard) or 0))) -- see lost_at
  call('HSET', KEYS[1], 'by', 'revoked 0 ' .. last .. ' 0')
else
  call('ZADD', KEYS[4], text(now + tonumber(ARGV[5])), ARGV[1]) -- nothing else is there to forget the producer
end
local at = last or '0-0'
call('HSET', KEYS[2], producer, table.concat({ARGV[3], at, at, '0 0', start or '0-0', text(revoked_at)}, ' '))
return {'revoked'}
