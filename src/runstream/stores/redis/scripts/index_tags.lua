-- Puts a run into the indexes of its tags.
--
-- KEYS  1 meta  2 tags  then the index of each tag
-- ARGV  1 run id  2 the run's start (it names this very run)
--       then the names of the tags that it had when they were looked at
--
-- Replies how many indexes did not have it, and then the names of the tags whose index is of another type; 0 if that run
--         is not there any more: then nothing was changed.
--
-- After it: the run is in all of the other indexes, under the values that it has now. What was tagged since it was looked
-- at is indexed by whoever did that.

local reply = {0}
if call('HGET', KEYS[1], 'start') ~= ARGV[2] then return reply end
for i = 3, #ARGV do
  local value = call('HGET', KEYS[2], ARGV[i]) -- false: it was removed since
  local is_sound, added = index_tag(KEYS[i], ARGV[1], nil, value)
  if not is_sound then
    reply[#reply + 1] = ARGV[i]
  elseif added then
    reply[1] = reply[1] + added
  end
end
return reply
