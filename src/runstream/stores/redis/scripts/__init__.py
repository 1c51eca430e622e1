"""The Lua scripts, each with a header: keys, arguments, replies, what holds after it."""
