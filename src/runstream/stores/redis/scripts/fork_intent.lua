-- Notes at a run that another one is about to be forked from it. The fork lies in another slot: it is made after that,
-- by fork.lua, and then confirmed by fork_end.lua.
--
-- KEYS  1 events  2 meta  3 forks  4 forking
-- ARGV  1 run id  2 the run's start (it names this very run)  3 the run's cursor at which the fork begins  4 'archived', if
--       whoever asks has that cursor from an archive, or from the run's own parent; or '-'  5 the fork's id  6 its
--       identity  7 the last request to erase something of the run, as its meta has that; '' for none
--
-- Replies {'ok', identity}          the intent is noted, or was before: under this identity the fork is to be made
--         {'made', identity, cursor}  this fork was made before, under this identity, as far as the run knows
--         {'other', identity, cursor}  a fork of that name is noted which began at another cursor
--         {'changed'}               the run is not there any more, or another one of that name is; or it begins after that
--                                   cursor by now, or something of it is to be erased since, which its snapshots may hold
--         {'diverged'}              the run has another cursor at that offset, or ends before it
--         {'archived'}              that entry has left Redis
--         But for the first, nothing was written.
--
-- After 'ok': the run can neither be deleted nor forgotten before the fork is gone or given up. `forks` has 'intent
-- IDENTITY CURSOR TIME' under the fork's id, and once it is confirmed 'fork IDENTITY CURSOR TIME'. `forking` has each intent
-- by that time, in microseconds: a worker sees to those that are left over.

local meta = call('HMGET', KEYS[2], 'start', 'last', 'mark', 'retired', 'base', 'erasures')
local start, last, mark, base = meta[1], meta[2], meta[3] or meta[4] and meta[2] or meta[1], meta[5]
if start ~= ARGV[2] then return {'changed'} end

local cursor = ARGV[3]
if base and parse_cursor(cursor) < parse_cursor(base) or (meta[6] or '') ~= ARGV[7] then return {'changed'} end
if cursor ~= last and cursor ~= mark then
  local at = parse_cursor(cursor)
  local entry = call('XRANGE', KEYS[1], text(at), text(at))[1]
  if at >= parse_cursor(last) or entry and entry[1] ~= cursor then return {'diverged'} end
  local is_start = cursor == base or string.match(start, '^%d+%-%d+') == cursor
  if not (entry or is_start or ARGV[4] == 'archived') then return {'archived'} end
end

local noted = call('HGET', KEYS[3], ARGV[5])
if noted then
  local state, identity, at = string.match(noted, '^(%a+) (%d+) (%S+) %d+$')
  if at ~= cursor then return {'other', identity, at} end
  return {state == 'intent' and 'ok' or 'made', identity, at}
end
local now = text(clock())
call('ZADD', KEYS[4], now, tag_member(ARGV[1], ARGV[5]))
call('HSET', KEYS[3], ARGV[5], 'intent ' .. ARGV[6] .. ' ' .. cursor .. ' ' .. now)
return {'ok', ARGV[6]}
