"""Archives: stores that keep runs for good, and that a drain worker writes to."""
