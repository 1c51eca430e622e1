"""What one store object knows: producers, what was seen, what is in flight, snapshots."""
