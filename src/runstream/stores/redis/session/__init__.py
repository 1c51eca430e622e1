"""What one store object remembers between calls: producers, seen cursors, batches in flight, snapshots."""
