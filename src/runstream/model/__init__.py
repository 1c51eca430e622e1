"""Plain data, the errors, the Protocols of stores and archives. Does no I/O and imports nothing else of ours."""
