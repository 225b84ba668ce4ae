"""Loopback ports that nothing uses yet."""

import socket

LOOPBACK = "127.0.0.1"


def unused_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago.

    Another process may take it before it is used: servers started here try again with another.
    """
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
