"""A real redis-server (or valkey-server) that tests can kill, restart, flush and pause."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from tests.services.directory import server_directory
from tests.services.ports import LOOPBACK
from tests.services.process import ServerFailed, ServerProcess, on_an_unused_port
from tests.services.programs import find_program


class RedisServer:
    """One server on loopback without persistence: a restart comes back empty."""

    def __init__(self, folder: Path) -> None:
        self._program = find_program("redis-server", "valkey-server", package="redis-server")
        self.folder = folder
        self._process: ServerProcess | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"redis://{LOOPBACK}:{self.port}/0"

    @property
    def socket_url(self) -> str:
        """The same server through its unix socket."""
        return f"unix://{self._socket}?db=0"

    @property
    def process(self) -> ServerProcess:
        """The running server.

        Raises:
            ServerFailed: it was stopped or killed and not started again.
        """
        if self._process is None or not self._process.running:
            raise ServerFailed("This redis-server is not running; call start() first.")
        return self._process

    def start(self) -> None:
        """Start it; after a stop or kill, on the port it had."""
        if self._process is not None and self._process.running:
            return
        if self.port:
            self._start()
            return
        on_an_unused_port(self._start_on)

    def stop(self) -> None:
        """End it in order, as a maintenance would."""
        if self._process is not None:
            self._process.stop()

    def kill(self) -> None:
        """End it as a crash would."""
        self.process.kill()

    def restart(self) -> None:
        """Kill it and start an empty one on the same port."""
        self.kill()
        self.start()

    def pause(self) -> None:
        """Keep its connections and answer nothing until `resume`."""
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def flush(self) -> None:
        """FLUSHALL: what Redis holds must be something that can be rebuilt."""
        with self.client() as client:
            client.flushall()

    def drop_clients(self) -> None:
        """Close every other connection; the server itself goes on."""
        with self.client() as client:
            client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")

    def client(self) -> Redis:
        """A blocking client of its own, to be used as a context manager."""
        return Redis.from_url(self.socket_url, decode_responses=True, socket_timeout=5)

    @property
    def _socket(self) -> Path:
        return self.folder / "redis.sock"

    def _start_on(self, port: int) -> None:
        self.port = port
        self._start()

    def _start(self) -> None:
        self._process = ServerProcess(
            [
                self._program,
                *("--bind", LOOPBACK),
                *("--port", str(self.port)),
                *("--unixsocket", str(self._socket)),
                *("--dir", str(self.folder)),
                *("--save", ""),
                *("--appendonly", "no"),
            ],
            log=self.folder / "redis.log",
        )
        self._process.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except RedisError:
            return False


@contextmanager
def running_redis() -> Iterator[RedisServer]:
    """A server for the length of the block."""
    with server_directory("redis") as folder:
        server = RedisServer(folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
