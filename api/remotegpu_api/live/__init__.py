"""Live viewers: graphql-transport-ws sockets, and the hub that executes once for many of them."""
