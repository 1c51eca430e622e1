"""purpose-agent's own files: read in place, and imported."""
