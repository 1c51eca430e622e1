-- Finds out which commands scripts cannot call here: those that the user has no right to, and those that the server
-- has not, as it may have renamed them.
--
-- KEYS  1 a key that is not there
-- ARGV  the names of the commands
--
-- Replies {name, 'user' or 'server', ...}: each that cannot be called, and who has to be asked for it
--
-- After it nothing has changed. Each command is called with valid arguments, as their number is checked before the
-- right is. Those that free memory come first: after them a full server takes the rest.

local key, wanted, missing, broken = KEYS[1], {}, {}, nil
for i = 1, #ARGV do wanted[ARGV[i]] = true end

-- Calls a command. Returns who has to be asked for it; nil if it may be called.
local function lacking(name, ...)
  local reply = redis.pcall(name, ...)
  if type(reply) ~= 'table' or not reply.err then return nil end
  local why = tostring(reply.err)
  if string.find(why, "can't run this command", 1, true) or string.find(why, 'no permissions to run', 1, true) then
    return 'user'
  end
  if string.find(why, '[Uu]nknown.* command') then return 'server' end
  -- a replica, a server that loads: nothing is known, and the caller waits. That a key is not there is as it must be
  if not string.find(why, 'no such key', 1, true) and not string.find(why, 'OOM', 1, true) then broken = reply end
end

local function try(name, ...)
  if not wanted[name] then return end
  wanted[name] = nil
  local whom = lacking(name, ...)
  if whom then missing[#missing + 1], missing[#missing + 2] = name, whom end
end

try('DEL', key)
try('HDEL', key, 'x')
try('ZREM', key, 'x')
try('ZREMRANGEBYSCORE', key, '0', '0')
try('XTRIM', key, 'MINID', '1')
try('RENAME', key, key)
try('PERSIST', key)
try('PEXPIRE', key, '1')
try('TIME')
try('TYPE', key)
try('EXISTS', key)
try('HGET', key, 'x')
try('HMGET', key, 'x')
try('HGETALL', key)
try('HEXISTS', key, 'x')
try('HLEN', key)
try('HSCAN', key, '0')
try('XLEN', key)
try('XRANGE', key, '-', '+', 'COUNT', '1')
try('XREVRANGE', key, '+', '-', 'COUNT', '1')
try('ZSCORE', key, 'x')
try('ZRANGEBYSCORE', key, '0', '0')
try('ZREVRANGEBYSCORE', key, '0', '0')
try('XADD', key, 'NOMKSTREAM', '1-1', 'e', 'x')
try('ZADD', key, 'XX', '0', 'x')
-- these make the key, where it can be removed again
local remove = not lacking('DEL', key) and {'DEL', key} or not lacking('HDEL', key, 'x') and {'HDEL', key, 'x'}
if remove then
  try('HSET', key, 'x', '')
  try('HSETNX', key, 'x', '')
  lacking(unpack(remove))
end
return broken or missing
