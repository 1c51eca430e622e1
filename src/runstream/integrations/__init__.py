"""Import what other programs wrote."""
