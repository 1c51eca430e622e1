-- Clears what is left of a run that is retired or not there: the producers of one that was retired, with what was adopted
-- of theirs, and leases on one that never came to be.
--
-- KEYS  1 leftovers  2 meta  3 producers  4 config of the partition
-- ARGV  1 run id
--
-- Replies 1, or 2 if the run never came to be and nothing is left of it, or 0 if something is needed still: then it is
--         looked at again later.
--
-- After 1 or 2: the run is not in `leftovers`. A run that goes on keeps all that it has. When the producers that went were
-- last heard is noted, so that a batch that comes later is not taken for a new one. ZREM is the first write: a full
-- server takes it, and then the rest.

local now, meta = clock(), all_of(KEYS[2])
local expires = meta['start'] and 0 or last_expiry(meta, now)
call('ZREM', KEYS[1], ARGV[1])
if expires > now then
  call('ZADD', KEYS[1], text(expires), ARGV[1])
  return 0
end
if meta['start'] and not is_tombstone(meta['retired']) then return 1 end
local known, forgotten = call('HGETALL', KEYS[3]), lost_at(KEYS[3], meta['heard'], meta['updated'], meta['ahead'])
if meta['start'] then
  call('HDEL', KEYS[2], 'adopted', 'heard')
else
  call('DEL', KEYS[2])
end
for i = 1, #known, 2 do forgotten = math.max(forgotten, heard_at(known[i + 1])) end
call('DEL', KEYS[3])
note_forgotten(KEYS[4], forgotten)
return meta['start'] and 1 or 2
