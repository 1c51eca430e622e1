-- Sets a run aside that cannot be archived.
--
-- KEYS  1 meta  2 due  3 parked  4 events  5 keys  6 snapshot
-- ARGV  1 run id  2 the run's start; '' if its meta is damaged and has none that can be read  3 reason
--       4 for how long (microseconds)  5 words, or '': a run that is parked with a reason that begins with them, and is another
--         one, stays as it is
--
-- Replies 1, or 2 if it stays as it is, or 0 if that run is not there any more: then it was not parked, and one of which there is nothing at all
--         is neither due nor parked any longer.
--
-- After 1: the run is in `parked` with its reason, and comes due again after that time. Nothing was trimmed.

local meta_type = call('TYPE', KEYS[1])['ok']
local start = meta_type == 'hash' and call('HGET', KEYS[1], 'start') or ''
if start ~= ARGV[2] then return 0 end
local former = ARGV[5] ~= '' and call('HGET', KEYS[3], ARGV[1])
if former and former ~= ARGV[3] and string.sub(former, 1, #ARGV[5]) == ARGV[5] then return 2 end
if start == '' then
  local has_meta = meta_type ~= 'none' and (meta_type ~= 'hash' or call('HEXISTS', KEYS[1], 'last') == 1)
  if not has_meta and call('EXISTS', KEYS[4], KEYS[5], KEYS[6]) == 0 then
    call('ZREM', KEYS[2], ARGV[1])
    call('HDEL', KEYS[3], ARGV[1])
    return 0
  end
end
-- once it is put right all of it is looked at
if meta_type == 'hash' then call('HDEL', KEYS[1], 'indexed') end
call('ZREM', KEYS[2], '') -- a full server takes this, and then the rest; see common.lua
call('ZADD', KEYS[2], text(clock() + tonumber(ARGV[4])), ARGV[1])
call('HSET', KEYS[3], ARGV[1], ARGV[3])
return 1
