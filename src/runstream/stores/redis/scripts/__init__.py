"""The Lua scripts, and the commands that call them."""
