"""Connections to a server: transports, drivers, clients, the pinned connection, the embedded server."""
