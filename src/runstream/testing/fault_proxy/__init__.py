"""A proxy that loses, cuts and delays what goes between a client and a real server."""
