"""Read and import purpose-agent's own files."""
