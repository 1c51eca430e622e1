-- Sets keys of a partition aside that are of another type than they must be, so that they can be made anew.
--
-- KEYS  the keys; then for each the name to set it aside under
-- ARGV  the type that each must have
--
-- Replies the keys that were set aside
--
-- After it: each of the keys is of its type, or not there. What was set aside before under the same name is replaced.
-- RENAME is the first write: a full server takes it.

local aside = {}
for i = 1, #ARGV do
  local found = call('TYPE', KEYS[i])['ok']
  if found ~= 'none' and found ~= ARGV[i] then
    call('RENAME', KEYS[i], KEYS[#ARGV + i])
    aside[#aside + 1] = KEYS[i]
  end
end
return aside
