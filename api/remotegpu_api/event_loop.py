"""The event loop of the control plane."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

import uvloop

from remotegpu_core.dialing import connect_socket

P = TypeVar("P", bound=asyncio.BaseProtocol)


class Loop(uvloop.Loop):
    """uvloop, but for names with several addresses: those are raced.

    The clients of PostgreSQL and Redis connect through the loop, and offer no other place for it.
    """

    async def create_connection(  # type: ignore[override]  # all of its overloads in one
        self,
        protocol_factory: Callable[[], P],
        host: str | None = None,
        port: int | None = None,
        *,
        sock: socket.socket | None = None,
        family: int = 0,
        flags: int = 0,
        **options: Any,
    ) -> tuple[asyncio.BaseTransport, P]:
        # Its stubs have overloads that fit no caller who passes on what it was given.
        connect = cast("Callable[..., Awaitable[Any]]", super().create_connection)
        if host is None or port is None or sock is not None or options.get("local_addr"):
            made: tuple[asyncio.BaseTransport, P] = await connect(
                protocol_factory, host, port, sock=sock, family=family, flags=flags, **options
            )
            return made
        connected = await connect_socket(host, port, family=family, flags=flags)
        if options.get("ssl") is not None:
            options["server_hostname"] = options.get("server_hostname") or host
        try:
            made = await connect(protocol_factory, sock=connected, **options)
        except BaseException:
            connected.close()
            raise
        return made
