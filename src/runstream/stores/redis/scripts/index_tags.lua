-- Puts a run into the indexes of its tags.
--
-- KEYS  1 meta  2 tags  then the index of each tag
-- ARGV  1 run id  2 the run's start (it names this very run)  3 the version of its tags
--       then the names of the tags
--
-- Replies how many indexes did not have it, and then the names of the tags whose index is of another type; 0 if that run
--         is not there any more, or has other tags by now: then nothing was changed.
--
-- After it: the run is in all of the other indexes.

local meta, reply = call('HMGET', KEYS[1], 'start', 'tags'), {0}
if meta[1] ~= ARGV[2] or meta[2] ~= ARGV[3] then return reply end
for i = 4, #ARGV do
  local value = call('HGET', KEYS[2], ARGV[i])
  local is_sound, added = index_tag(KEYS[i - 1], ARGV[1], nil, value)
  if not is_sound then
    reply[#reply + 1] = ARGV[i]
  elseif added then
    reply[1] = reply[1] + added
  end
end
return reply
