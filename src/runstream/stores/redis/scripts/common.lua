-- What several scripts share: it is put before their source. It begins no write and sets no global.

local call, format = redis.call, string.format

local function text(number) return format('%.0f', number) end

local function place(cursor)
  local offset, chain = string.match(cursor, '^(%d+)-(%d+)$')
  return tonumber(offset), tonumber(chain)
end

local function clock()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

local function is_ended(status) return status == 'completed' or status == 'failed' or status == 'cancelled' end

-- Meta's field `retired`, of a run that was retired: 'RUN LANES', the revision of the run's own snapshot and the
-- highest of its lanes' (0: none) as they left Redis with its events; this is a tombstone, and its last place is
-- the mark. Once something has come after it: 'RUN LANES OFFSET', with the offset up to which it was retired.
-- The two revisions and the offset; for a run that was not retired, nothing.
local function retired_of(retired, last)
  if not retired then return nil end
  local of_run, of_lanes, offset = string.match(retired, '^(%d+) (%d+) ?(%d*)$')
  return tonumber(of_run), tonumber(of_lanes), tonumber(offset) or last
end

local function is_tombstone(retired) return retired and string.match(retired, '^%d+ %d+$') ~= nil end

-- What tells this server, as a primary, from every other and from itself before it was last promoted or started
-- again. A lease is in force only where it was given: behind a failover or a restart it may have been the newest,
-- or a lost one may have passed it. A server that does not tell (fakeredis; a user without INFO) has '-'.
local function server_identity()
  local info = redis.pcall('INFO', 'replication')
  return type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '-'
end

-- A lease in meta's field `lease` (of the run) or `lease:LANE`: 'EPOCH EXPIRES TOKEN SERVER OWNER'.
-- Its token, owner, expiry and epoch, or nil if there is none in force at that time.
local function lease_in_force(lease, now)
  if not lease then return nil end
  local epoch, expires, token, server, owner = string.match(lease, '^(%d+) (%d+) (%S+) (%S+) (.*)$')
  if tonumber(expires) <= now or server ~= server_identity() then return nil end
  return token, owner, tonumber(expires), epoch
end

-- Meta's field `by`, if the run's last append was an ordinary one: 'PRODUCER BATCH FORMER BEFORE', with the run's
-- place and the lane's last offset before it. It stands for the reply that is kept with its producer.
-- Its producer, and that reply; for a run whose last append was another one, nothing.
local function reply_of(by, start, last, updated)
  if not by then return nil end
  local producer, batch, former, before = string.match(by, '^(%S+) (%d+) (%S+) (%d+)$')
  return producer, table.concat({batch, former, last, '0 0', start, updated, before}, ' ')
end

-- Whether a field of meta notes a snapshot, of the run or of a lane.
local function is_snapshot(field) return string.sub(field, 1, 8) == 'snapshot' end

-- When the last of the leases that are in force runs out; 0 if none is.
local function last_expiry(meta, now)
  local last = 0
  for field, value in pairs(meta) do
    if string.match(field, '^lease') then
      local _, _, expires = lease_in_force(value, now)
      last = math.max(last, expires or 0)
    end
  end
  return last
end

-- All fields of a hash by their names.
local function all_of(key)
  local fields, found = call('HGETALL', key), {}
  for i = 1, #fields, 2 do found[fields[i]] = fields[i + 1] end
  return found
end

-- ARGV from `first` on: a number of archives, their UUIDs, then fields and values. The location of an archive that
-- the partition requires (key) and that is not among them, or nil; the fields' values by their names.
local function archived_by(key, first)
  local at_fields, has, values = first + 1 + tonumber(ARGV[first]), {}, {}
  for i = first + 1, at_fields - 1 do has[ARGV[i]] = true end
  for i = at_fields, #ARGV, 2 do values[ARGV[i]] = ARGV[i + 1] end
  local required = call('HGETALL', key)
  for i = 1, #required, 2 do
    if not has[required[i]] then return required[i + 1], values end
  end
  return nil, values
end

-- The reply that says so, if a lease is in force in that field whose token is another one.
local function held(field, lease, now, mine)
  local token, owner, expires = lease_in_force(lease, now)
  if not token or token == mine then return nil end
  return {'held', field, owner, text(expires - now)}
end

