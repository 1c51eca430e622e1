-- Notes that all runs of a partition are in the indexes of their tags, once a sweep has gone through all of them.
--
-- KEYS  1 config of the partition
-- ARGV  1 a name for the sweep  2 'begin', 'again' or 'end'
--
-- Replies 1 if the partition's indexes are complete, else 0
--
-- `tagged` is '1' where they are complete; 'begin' notes the sweep's name there if they are not, 'again' in any case, and
-- 'end' that they are, if that name is there still: nothing has shown meanwhile that they are not.

local noted = call('HGET', KEYS[1], 'tagged')
if ARGV[2] == 'again' or ARGV[2] == 'begin' and noted ~= '1' then
  noted = ARGV[1]
elseif ARGV[2] == 'end' and noted == ARGV[1] then
  noted = '1'
else
  return noted == '1' and 1 or 0
end
call('HSET', KEYS[1], 'tagged', noted)
return noted == '1' and 1 or 0
