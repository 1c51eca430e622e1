-- Takes an archive off those that a partition requires.
--
-- KEYS  1 archives
-- ARGV  1 the archive's UUID
--
-- Replies 1, or 0 if it is the only one: it stays, since without any the next worker's archives would be required,
--         whatever they are.
--
-- After 1: settling and retiring no longer ask for this archive.

if call('HEXISTS', KEYS[1], ARGV[1]) == 1 and call('HLEN', KEYS[1]) == 1 then return 0 end
call('HDEL', KEYS[1], ARGV[1])
return 1
