"""What the drain worker does to Redis."""
