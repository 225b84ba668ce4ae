"""The ASGI edge: sign-in, the graph over HTTP and websocket, the agents' gateway, the CLI."""
