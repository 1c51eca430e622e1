"""What a store does, without waiting."""
