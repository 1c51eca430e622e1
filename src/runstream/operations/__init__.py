"""What a store does, as operations without I/O: their steps, their runners, and the interface of every store."""
