"""What a store does for its callers."""
