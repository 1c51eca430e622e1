"""Values to bytes and back: the wire record and the chain, JSON, snapshots. Pure: no I/O, no clock, no chance."""
