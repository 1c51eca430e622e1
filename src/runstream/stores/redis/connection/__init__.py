"""How commands reach a server: clients, drivers, held connections, the embedded server."""
