"""The operations that a Redis store offers its callers."""
