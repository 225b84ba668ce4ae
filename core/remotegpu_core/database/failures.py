"""Errors of a database that is away or takes no changes, told as one error with one sentence.

The engines (`sqlite_engine`, `postgres_engine`) pass every statement, commit and connection attempt
through `failures_told`. What is left, such as a violated constraint, stays what it was.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from enum import StrEnum
from typing import Final

import asyncpg
from tortoise.exceptions import BaseORMException, DBConnectionError

from remotegpu_core.errors import Unavailable


class Trouble(StrEnum):
    """Why the database cannot be used; what `/healthz` tells."""

    AWAY = "away"
    BUSY = "busy"
    CONFLICT = "conflict"
    READ_ONLY = "read-only"
    FULL = "full"
    DAMAGED = "damaged"


_SENTENCES: Final[Mapping[Trouble, str]] = {
    Trouble.AWAY: "The database is away: try again in a few seconds.",
    Trouble.BUSY: "The database is busy with other changes: try again in a few seconds.",
    Trouble.CONFLICT: "Another change got in the way of this one, which was undone: try again.",
    Trouble.READ_ONLY: "The database is read-only at the moment, so nothing was changed. Reading "
    "works; try the change again in a few seconds.",
    Trouble.FULL: "The database's disk is full, so nothing was changed. Reading works; try again "
    "when an operator has made room.",
    Trouble.DAMAGED: "The database cannot read or write its files. An operator has to look at the "
    "server's log and its disk.",
}

#: Troubles in which nothing is written; reading may work.
REFUSES_WRITES: Final = frozenset({Trouble.BUSY, Trouble.READ_ONLY, Trouble.FULL, Trouble.DAMAGED})


class DatabaseUnavailable(Unavailable):
    """The database is away or takes no changes. Its cause is the driver's error."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(_SENTENCES[trouble])
        self.trouble = trouble

    def __str__(self) -> str:
        # For logs: the driver's own words are what an operator needs.
        return f"{self.trouble}: {self.__cause__}" if self.__cause__ else self.message


#: What a statement raises while the database cannot be used, through the engines or past them.
#: asyncpg's internal error is one of a connection that is lost while it is given back.
DATABASE_ERRORS: Final = (
    DatabaseUnavailable,
    BaseORMException,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
)

#: Primary result codes, see https://sqlite.org/rescode.html.
_SQLITE: Final[Mapping[int, Trouble]] = {
    sqlite3.SQLITE_BUSY: Trouble.BUSY,
    sqlite3.SQLITE_LOCKED: Trouble.BUSY,
    sqlite3.SQLITE_PROTOCOL: Trouble.BUSY,
    sqlite3.SQLITE_READONLY: Trouble.READ_ONLY,
    sqlite3.SQLITE_FULL: Trouble.FULL,
    sqlite3.SQLITE_IOERR: Trouble.DAMAGED,
    sqlite3.SQLITE_CANTOPEN: Trouble.DAMAGED,
    sqlite3.SQLITE_CORRUPT: Trouble.DAMAGED,
    sqlite3.SQLITE_NOTADB: Trouble.DAMAGED,
    sqlite3.SQLITE_NOMEM: Trouble.BUSY,
}

#: Classes and codes of SQLSTATE, see "PostgreSQL Error Codes" in its manual; longer ones first.
_POSTGRES: Final[tuple[tuple[str, Trouble], ...]] = (
    ("25006", Trouble.READ_ONLY),
    ("53100", Trouble.FULL),
    ("57P", Trouble.AWAY),  # shutting down, starting up, connection ended by an administrator
    ("40001", Trouble.CONFLICT),
    ("40P01", Trouble.CONFLICT),  # a deadlock, of which this transaction was undone
    ("55P03", Trouble.BUSY),
    ("08", Trouble.AWAY),  # the connection
    ("28", Trouble.AWAY),  # the password is refused: it may have been changed
    ("3D", Trouble.AWAY),  # no such database: it may be restored just now
    ("53", Trouble.BUSY),  # connections, memory
    ("58", Trouble.DAMAGED),  # input and output
)


def trouble_of(error: BaseException) -> Trouble | None:
    """What an error of a driver or of Tortoise says of the database; None: nothing of this kind."""
    if isinstance(error, DatabaseUnavailable):
        return error.trouble
    if isinstance(error, sqlite3.Error):
        code = getattr(error, "sqlite_errorcode", None)
        return None if code is None else _SQLITE.get(code & 0xFF)
    if isinstance(error, asyncpg.PostgresError):
        state: str = getattr(error, "sqlstate", None) or ""
        return next((trouble for start, trouble in _POSTGRES if state.startswith(start)), None)
    if isinstance(error, asyncpg.InternalClientError | OSError | TimeoutError):
        return Trouble.AWAY
    if isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError):
        # A value that does not fit its column is an InterfaceError, too, and a ValueError.
        return Trouble.AWAY
    if isinstance(error, DBConnectionError):
        return Trouble.AWAY
    return None


@contextlib.contextmanager
def failures_told() -> Iterator[None]:
    """Around work on a connection.

    Raises:
        DatabaseUnavailable: in place of what the driver raised because of it.
    """
    try:
        yield
    except DatabaseUnavailable:
        raise
    except Exception as error:
        trouble = trouble_of(error)
        if trouble is None:
            raise
        raise DatabaseUnavailable(trouble) from error


def tell_failure(
    error: BaseException | None, note: Callable[[Trouble], None] | None = None
) -> None:
    """At the end of a statement's connection, with what the statement raised. `note` is told first.

    Raises:
        DatabaseUnavailable: in its place, where it says that the database cannot be used.
    """
    trouble = None if error is None else trouble_of(error)
    if trouble is None:
        return
    if note is not None:
        note(trouble)
    raise DatabaseUnavailable(trouble) from error


#: Seconds after the last refused write for which the database counts as refusing, even if a small
#: write went well meanwhile: a full disk has room in the write-ahead log now and then.
_REMEMBERED: Final = 5.0


class WriteHealth:
    """Whether the database takes changes, by what happened to the last ones."""

    def __init__(self) -> None:
        self._trouble: Trouble | None = None
        self._refused_at = 0.0

    def refused(self, trouble: Trouble) -> None:
        """Note what a statement or a commit ended with."""
        if trouble in REFUSES_WRITES:
            self._trouble, self._refused_at = trouble, time.monotonic()

    def written(self) -> None:
        """Note a change that was made."""
        if self._trouble and time.monotonic() - self._refused_at >= _REMEMBERED:
            self._trouble = None

    @property
    def trouble(self) -> Trouble | None:
        return self._trouble
