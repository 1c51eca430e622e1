"""Encode values as bytes, and decode them: records, the chain, JSON, snapshots. No I/O, no clock, no chance."""

from runstream.codec import json_fields as json_fields  # events and states write their JSON by it
