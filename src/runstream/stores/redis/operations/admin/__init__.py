"""The operations in Redis of the operator's commands."""
