-- Takes, renews or releases a lease: the sole right to write one lane of a run, or the whole run.
--
-- KEYS  1 meta  2 leftovers
-- ARGV  1 'take', 'renew' or 'release'  2 the lease's field: 'lease' for the run's, or 'lease:LANE'  3 its token
--       4 how long it lasts (microseconds)  5 owner  6 run id  7 renew: its epoch
--
-- Replies {'ok', epoch}                         taken, renewed or released
--         {'held', field, owner, microseconds}  take: a lease that excludes this one is in force, for so long
--         {'lost'}                              renew: it has passed to another owner or expired
--
-- After a take: no other lease of that field is valid, and its epoch is higher than that of any other lease
-- this run has had here, and at least the server's time in microseconds. A lease does not create its run: what
-- is noted before there is one is cleared when the lease has expired. All checks come before the first write.

-- The values, by field, of those fields of a hash that match a pattern: faster than all of a hash that has many others.
local function fields_like(key, pattern)
  local cursor, found = '0', {}
  repeat
    local page = call('HSCAN', key, cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = page[1]
    for i = 1, #page[2], 2 do found[page[2][i]] = page[2][i + 1] end
  until cursor == '0'
  return found
end

local action, field, token, lasts, owner = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local now = clock()
local lease = call('HGET', KEYS[1], field)
local current, current_owner, _, epoch = lease_in_force(lease, now, token)

if action == 'release' then
  -- its first write frees memory, so a full server takes it
  if lease and string.match(lease, '^%d+ %d+ (%S+)') == token then call('HDEL', KEYS[1], field) end
  return {'ok', '0'}
end

if action == 'renew' then
  -- the epoch, too: a request to take it may have come again, late, after another has had the lease
  if current ~= token or epoch ~= ARGV[7] then return {'lost'} end
elseif current ~= token then -- a take that is sent again finds its own
  if current and current_owner ~= owner then return held(field, lease, now, token) end
  -- the whole run and its lanes exclude each other, whoever holds them
  local others, void = {}, {}
  if field == 'lease' then
    others = fields_like(KEYS[1], 'lease:*')
  else
    others.lease = call('HGET', KEYS[1], 'lease') or nil
  end
  for other, value in pairs(others) do
    local refusal = held(other, value, now, token)
    if refusal then return refusal end
    void[#void + 1] = other
  end
  for i = 1, #void do call('HDEL', KEYS[1], void[i]) end -- one whose deadline is astray is not to come back
  epoch = text(math.max(now, tonumber(call('HGET', KEYS[1], 'epoch') or 0) + 1))
  call('HSET', KEYS[1], 'epoch', epoch) -- not as one is renewed: another lane's lease may have a higher one by then
end

local expires = now + lasts
call('HSET', KEYS[1], field, epoch .. ' ' .. text(expires) .. ' ' .. token .. ' ' .. server_identity() .. ' ' .. owner)
if call('HEXISTS', KEYS[1], 'start') == 0 then
  call('PERSIST', KEYS[1]) -- up to 0.1.0 it was to expire
  call('ZADD', KEYS[2], 'GT', text(expires), ARGV[6])
end
return {'ok', epoch}
