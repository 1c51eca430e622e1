"""Plain data and the Protocols over it. Does no I/O and imports nothing else of runstream."""
