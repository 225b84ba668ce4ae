"""What drivers raise, as one error with one sentence."""

import sqlite3

import asyncpg
import pytest
from tortoise.exceptions import DBConnectionError, IntegrityError

from remotegpu_core.database.failures import (
    DatabaseUnavailable,
    Trouble,
    WriteHealth,
    failures_told,
    trouble_of,
)


def sqlite_error(code: int) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("said by SQLite")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "trouble"),
    [
        (sqlite_error(sqlite3.SQLITE_FULL), Trouble.FULL),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), Trouble.BUSY),
        (sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), Trouble.READ_ONLY),
        (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), Trouble.DAMAGED),
        (asyncpg.ReadOnlySQLTransactionError(), Trouble.READ_ONLY),
        (asyncpg.DiskFullError(), Trouble.FULL),
        (asyncpg.TooManyConnectionsError(), Trouble.BUSY),
        (asyncpg.DeadlockDetectedError(), Trouble.CONFLICT),
        (asyncpg.SerializationError(), Trouble.CONFLICT),
        (asyncpg.CannotConnectNowError(), Trouble.AWAY),
        (asyncpg.AdminShutdownError(), Trouble.AWAY),
        (asyncpg.ConnectionDoesNotExistError(), Trouble.AWAY),
        (asyncpg.InterfaceError("the connection is closed"), Trouble.AWAY),
        (ConnectionRefusedError(), Trouble.AWAY),
        (DBConnectionError(), Trouble.AWAY),
    ],
)
def test_trouble_is_recognised(error: Exception, trouble: Trouble) -> None:
    with pytest.raises(DatabaseUnavailable) as raised, failures_told():
        raise error
    assert raised.value.trouble is trouble
    assert raised.value.__cause__ is error
    assert raised.value.code == "UNAVAILABLE"


@pytest.mark.parametrize(
    "error",
    [
        sqlite_error(sqlite3.SQLITE_CONSTRAINT_UNIQUE),
        sqlite_error(sqlite3.SQLITE_ERROR),
        asyncpg.UniqueViolationError(),
        asyncpg.SyntaxOrAccessError(),
        asyncpg.DataError("a text where a number belongs"),
        IntegrityError(),
        ValueError(),
    ],
)
def test_what_is_no_trouble_stays_what_it_is(error: Exception) -> None:
    assert trouble_of(error) is None
    with pytest.raises(type(error)) as raised, failures_told():
        raise error
    assert raised.value is error


def test_a_refusal_is_remembered_past_a_small_write(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("remotegpu_core.database.failures.time.monotonic", lambda: now)
    health = WriteHealth()
    # Reading shows the first; after the second the next change is made.
    for passing in (Trouble.AWAY, Trouble.CONFLICT):
        health.refused(passing)
        assert health.trouble is None
    health.refused(Trouble.FULL)
    health.written()
    assert health.trouble is Trouble.FULL
    now = 106.0
    assert health.trouble is Trouble.FULL
    health.written()
    assert health.trouble is None
