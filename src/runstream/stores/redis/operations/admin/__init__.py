"""What the operator's commands do to Redis."""
