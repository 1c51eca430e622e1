"""One run as Redis has it, as an archive has it, and as both together; and where two histories part."""
