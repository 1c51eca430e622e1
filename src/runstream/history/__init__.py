"""One run, wherever it lies: in Redis, in an archive, over both, and where two histories part."""
