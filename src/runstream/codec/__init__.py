"""Bytes to values and back: the wire record and its chain, lossless JSON. Pure: no I/O, no clock, no chance."""
