"""What one store object knows: its producers, what it has seen, what is in flight, its snapshots."""
