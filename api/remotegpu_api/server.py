"""Running the application under uvicorn, on a socket that is bound before anything starts."""

import asyncio
import contextlib
import errno
import fcntl
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import structlog
import uvicorn

from remotegpu_api.app import create_app
from remotegpu_api.frame_check import websocket_class
from remotegpu_api.http_protocol import HttpProtocol
from remotegpu_api.live.messages import MAX_MESSAGE
from remotegpu_api.websocket_protocol import WebsocketProtocol
from remotegpu_core import trust
from remotegpu_core.control_plane import ControlPlane, control_plane
from remotegpu_core.database.connection import prepare_directory
from remotegpu_core.errors import Conflict, InvalidInput
from remotegpu_core.s3.credentials import check_keys
from remotegpu_core.settings import Settings

log = structlog.get_logger()

#: Seconds that open requests may take after a signal to end.
GRACE = 2


def bind(host: str, port: int) -> socket.socket:
    """A listening address of our own.

    Raises:
        Conflict: something else listens there.
        InvalidInput: there is no such address on this host, or the port is privileged.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        # Only now is the port ours: another process may have bound it without listening.
        listener.listen(2048)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"Port {port} on {host} is taken. Stop what listens there, or choose another "
                "port with REMOTEGPU_PORT (make demo: PORT=)."
            ) from None
        raise InvalidInput(
            f"Cannot listen on {host} port {port}: {error.strerror or error}. Choose others with "
            "REMOTEGPU_HOST and REMOTEGPU_PORT."
        ) from None
    listener.setblocking(False)
    return listener


def check_tls(settings: Settings) -> None:
    """Try the certificate and its key before anything starts.

    Raises:
        InvalidInput: one is missing, cannot be read, or does not belong to the other; or there are
            no authorities where there should be some.
    """
    trust.check(settings.ca_file)
    certificate, key = settings.tls_certificate, settings.tls_key
    if certificate is None and key is None:
        return
    if certificate is None or key is None:
        raise InvalidInput("REMOTEGPU_TLS_CERTIFICATE and REMOTEGPU_TLS_KEY go together.")
    try:
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise InvalidInput(
            f"Cannot use the certificate {certificate} with the key {key}: {error}. Expected PEM "
            "files that this user may read, the certificate's chain in the first."
        ) from None


@contextlib.contextmanager
def single_server(settings: Settings) -> Iterator[None]:
    """Hold the lock that lets one server use an SQLite file and its in-process bus.

    Raises:
        Conflict: another server holds it.
    """
    if settings.database_url is not None and settings.redis_url is not None:
        yield
        return
    prepare_directory(settings.data_dir)
    path: Path = settings.data_dir / "server.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Conflict(
                f"Another server uses {settings.data_dir}. Without REMOTEGPU_DATABASE_URL and "
                "REMOTEGPU_REDIS_URL there is one server a directory: stop the other, or choose "
                "another REMOTEGPU_DATA_DIR (make demo: DATA=)."
            ) from None
        yield


@contextlib.asynccontextmanager
async def running(
    settings: Settings,
) -> AsyncIterator[tuple["BoundServer", ControlPlane]]:
    """A server that is ready to `serve`; its parts end when the block does."""
    check_tls(settings)
    check_keys(settings.s3_credentials)
    listener = bind(settings.host, settings.port)
    try:
        with single_server(settings):
            async with control_plane(settings) as plane:
                yield _server(plane, listener, await websocket_class(settings)), plane
    finally:
        listener.close()


def _server(
    plane: ControlPlane, listener: socket.socket, websocket: type[WebsocketProtocol]
) -> "BoundServer":
    settings = plane.settings
    config = uvicorn.Config(
        create_app(plane),
        ssl_certfile=settings.tls_certificate,
        ssl_keyfile=settings.tls_key,
        http=HttpProtocol,
        loop="uvloop",
        ws=websocket,
        # Raised where a path takes more.
        ws_max_size=MAX_MESSAGE,
        ws_ping_interval=20,
        ws_ping_timeout=20,
        # Compression would cost two thirds of the fan-out rate.
        ws_per_message_deflate=False,
        # X-Forwarded-For is read in `callers`, for proxies that the settings trust.
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        lifespan="on",
        timeout_graceful_shutdown=GRACE,
    )
    return BoundServer(config, listener)


class BoundServer(uvicorn.Server):
    """Uvicorn on one socket that is ours already, ended by signals without being killed by them."""

    def __init__(self, config: uvicorn.Config, listener: socket.socket) -> None:
        super().__init__(config)
        self._listener = listener

    async def run_until_stopped(self) -> None:
        """Serve until `should_exit` is set or SIGINT, SIGTERM or SIGHUP comes."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop)
        try:
            await self.serve(sockets=[self._listener])
        finally:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # Uvicorn raises the signal again when it has served, which would end the process before
        # the database and the bus are closed.
        yield

    def _stop(self) -> None:
        # A second signal changes nothing: it often comes with the first (a terminal's and a
        # supervisor's), and the end is bounded anyway.
        self.should_exit = True
