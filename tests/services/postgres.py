"""A real PostgreSQL cluster that makes a fresh database in a moment."""

import itertools
import os
import pwd
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.services.directory import server_directory
from tests.services.ports import LOOPBACK
from tests.services.process import ServerFailed, ServerProcess, on_an_unused_port
from tests.services.programs import find_program, postgres_folders
from tests.services.small_disk import small_disk

#: The superuser of the cluster. Only loopback and the socket reach it, and no password is asked.
USER = "remotegpu"


class PostgresServer:
    """One cluster on loopback, tuned to forget: a crash of the host loses it, nothing else does."""

    def __init__(self, folder: Path, *, account: pwd.struct_passwd | None) -> None:
        folders = postgres_folders()
        self._postgres = find_program("postgres", package="postgresql", folders=folders)
        self._initdb = find_program("initdb", package="postgresql", folders=folders)
        self._psql = find_program("psql", package="postgresql-client", folders=folders)
        self._folder = folder
        self._account = account
        self._numbers = itertools.count(1)
        self._process: ServerProcess | None = None
        self.port = 0

    @property
    def process(self) -> ServerProcess:
        """The running server.

        Raises:
            ServerFailed: it was stopped or killed and not started again.
        """
        if self._process is None or not self._process.running:
            raise ServerFailed("This PostgreSQL is not running; call start() first.")
        return self._process

    def url(self, database: str = "postgres") -> str:
        return f"postgres://{USER}@{LOOPBACK}:{self.port}/{database}"

    @property
    def socket(self) -> Path:
        """The same server through its unix socket."""
        return self._folder / f".s.PGSQL.{self.port}"

    def create(self) -> None:
        """Make the cluster's files."""
        self._run(
            self._initdb,
            *("--pgdata", str(self._data)),
            *("--username", USER),
            *("--auth", "trust"),
            *("--encoding", "UTF8"),
            *("--locale", "C"),
            "--no-sync",
            "--no-instructions",
        )

    def start(self) -> None:
        """Start it; after a stop or kill, on the port it had."""
        if self._process is not None and self._process.running:
            return
        if self.port:
            self._start()
            return
        on_an_unused_port(self._start_on)

    def serve_tls(self, certificate: Path | None) -> None:
        """New connections may use TLS with this certificate and its key (one file); None: not."""
        if certificate is None:
            self.execute("ALTER SYSTEM RESET ssl")
        else:
            file = self._folder / "server.pem"
            file.write_bytes(certificate.read_bytes())
            file.chmod(0o600)
            if self._account is not None:
                os.chown(file, self._account.pw_uid, self._account.pw_gid)
            self.execute(f"ALTER SYSTEM SET ssl_cert_file = '{file}'")
            self.execute(f"ALTER SYSTEM SET ssl_key_file = '{file}'")
            self.execute("ALTER SYSTEM SET ssl = on")
        self.execute("SELECT pg_reload_conf()")

    def stop(self) -> None:
        if self._process is not None:
            self._process.stop()

    def restart(self) -> None:
        """Break every connection and come back on the same port with the same data."""
        self.process.stop()
        self.start()

    def execute(self, statement: str, *, database: str = "postgres") -> str:
        """Run one SQL statement as superuser and return its rows, fields separated by `|`.

        Raises:
            ServerFailed: PostgreSQL refused it; with what it said.
        """
        return self._run(
            self._psql,
            *("--host", str(self._folder)),
            *("--port", str(self.port)),
            *("--username", USER),
            *("--dbname", database),
            *("--no-psqlrc", "--quiet", "--tuples-only", "--no-align"),
            *("--set", "ON_ERROR_STOP=1"),
            *("--command", statement),
        ).strip()

    @contextmanager
    def database(self, *, template: str = "template0") -> Iterator[str]:
        """The URL of a database of one's own, a copy of `template`; dropped after the block.

        A test module that migrates once and copies the result many times passes its own
        `template`, which nobody may be connected to at that moment.
        """
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        try:
            yield self.url(name)
        finally:
            # FORCE: a test that failed may have left connections open.
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def end_sessions(self, database: str) -> None:
        """End every connection to a database, as an administrator would."""
        self.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "  # noqa: S608 - a test's own name
            f"WHERE datname = '{database}' AND pid <> pg_backend_pid()"
        )

    @contextmanager
    def small_tablespace(self, size: int) -> Iterator[tuple[str, Path]]:
        """A tablespace's name and folder, on a file system of `size` bytes. Needs root."""
        folder = self._folder / "small"
        with small_disk(folder, size=size):
            if self._account is not None:
                os.chown(folder, self._account.pw_uid, self._account.pw_gid)
            self.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
            yield "small", folder
            self.execute("DROP TABLESPACE small")
        folder.rmdir()

    def refuse_writes(self, database: str) -> None:
        """Have all sessions of a database, and those to come, take no changes, as a standby would."""
        self.execute(f"ALTER DATABASE {database} SET default_transaction_read_only = on")
        self.end_sessions(database)

    def take_writes(self, database: str) -> None:
        """Have sessions to come take changes; those that there are refuse them for ever."""
        self.execute(f"ALTER DATABASE {database} RESET default_transaction_read_only")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _start_on(self, port: int) -> None:
        self.port = port
        self._start()

    def _start(self) -> None:
        settings = {
            "listen_addresses": LOOPBACK,
            "port": str(self.port),
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "autovacuum": "off",
            "shared_buffers": "16MB",
            "max_connections": "100",
        }
        self._process = ServerProcess(
            [
                self._postgres,
                *("-D", str(self._data)),
                *itertools.chain.from_iterable(
                    ("-c", f"{name}={value}") for name, value in settings.items()
                ),
            ],
            log=self._folder / "postgres.log",
            user=self._account.pw_uid if self._account else None,
            group=self._account.pw_gid if self._account else None,
            # "Fast" shutdown: end sessions instead of waiting for them.
            ask_to_end=signal.SIGINT,
        )
        self._process.wait_until(self._answers)

    def _answers(self) -> bool:
        try:
            return self.execute("SELECT 1") == "1"
        except ServerFailed:
            return False

    def _run(self, *command: str | Path) -> str:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            cwd=self._folder,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            user=self._account.pw_uid if self._account else None,
            group=self._account.pw_gid if self._account else None,
            extra_groups=[] if self._account else None,
        )
        if done.returncode:
            raise ServerFailed(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
        return done.stdout


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A fresh cluster for the length of the block."""
    account = unprivileged_account()
    with server_directory("postgres", owner=account.pw_uid if account else None) as folder:
        server = PostgresServer(folder, account=account)
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.stop()


def unprivileged_account() -> pwd.struct_passwd | None:
    """Whom PostgreSQL runs as: it refuses root. None means ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.fail(
        "PostgreSQL refuses to run as root, and there is neither an account `postgres` nor "
        "`nobody` to run it as. By hand: apt-get install postgresql",
        pytrace=False,
    )
