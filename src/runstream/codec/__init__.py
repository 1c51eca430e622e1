"""Encode values as bytes, and decode them: records, the chain, JSON, snapshots. No I/O, no clock, no chance."""
