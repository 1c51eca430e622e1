-- Reads what a run, or a lane of it, is recovered from beside its snapshot: the first page of the events that this does
-- not cover.
--
-- KEYS  1 meta  2 the snapshot  3 events
-- ARGV  1 at most so many entries  2 at most so many bytes, at the size of the run's largest record  3 at most so many
--       entries where meta does not tell that size  4 how many of the run's last entries are not wanted: whoever asks has
--       them  5 the lane; none: the run itself
--
-- Replies {count, spans, id, record, ...}: `spans` are 'OFFSET-OFFSET OFFSET-OFFSET ...': all events that are wanted are
--         after the first offset of one, up to its second. Then come the entries at the first `count` offsets in them,
--         without those that are not wanted.
--
-- It writes nothing.

local call, lane = redis.call, ARGV[5]
local function text(number) return string.format('%.0f', number) end
local function offset_of(field) return field and tonumber(string.match(field, '^%d+')) or nil end

local fields = {'last', 'start', 'base', 'largest'}
if lane then fields[5], fields[6], fields[7] = 'since:' .. lane, 'lane:' .. lane, 'gaps:' .. lane end
local meta = call('HMGET', KEYS[1], unpack(fields))
local low, high = offset_of(meta[3] or meta[2]), offset_of(meta[1])
-- where something does not read, whoever asks finds out what
if not low or not high then return {0, ''} end
local upto = high - tonumber(ARGV[4])
low = math.max(low, offset_of(call('HGET', KEYS[2], 'offset')) or 0)

local spans = {}
local function add(first, last)
  if first < last then spans[#spans + 1] = {first, last} end
end
if lane then
  -- a lane needs only its own events: of those of others, the many that lie between two of its own are in `gaps`
  low, high = math.max(low, (tonumber(meta[5]) or high + 1) - 1), offset_of(meta[6]) or high
  for before, after in string.gmatch(meta[7] or '', '(%d+)%-(%d+)') do
    before, after = tonumber(before), tonumber(after)
    if low < before and before < after and after <= high then
      add(low, before)
      low = after - 1
    end
  end
end
add(low, high)

local largest = tonumber(meta[4])
local count = largest and math.max(1, math.min(tonumber(ARGV[1]), math.floor(tonumber(ARGV[2]) / largest)))
  or math.min(tonumber(ARGV[1]), tonumber(ARGV[3]))
local left, reply, size = count, {count, ''}, 2
for i = 1, #spans do
  local first, last = spans[i][1], spans[i][2]
  spans[i] = text(first) .. '-' .. text(last)
  local upto_page = math.min(last, first + left)
  left = left - (upto_page - first)
  last = math.min(upto_page, upto)
  if first < last then
    local entries = call('XRANGE', KEYS[3], text(first + 1), text(last))
    for j = 1, #entries do -- flat: to give it as tables in tables takes the server twice as long
      local fields = entries[j][2]
      reply[size + 1], reply[size + 2] = entries[j][1], #fields == 2 and fields[2] or table.concat(fields, ' ')
      size = size + 2
    end
  end
end
reply[2] = table.concat(spans, ' ')
return reply
