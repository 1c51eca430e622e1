"""The drain worker's operations in Redis."""
