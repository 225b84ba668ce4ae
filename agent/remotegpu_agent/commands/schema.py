"""The tables of the journal, and opening them."""

import os
import sqlite3
from pathlib import Path
from typing import Final

from remotegpu_agent.durable import sync_directory
from remotegpu_agent.errors import JournalError

VERSION: Final = 1

_TABLES: Final = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE command (
    id TEXT PRIMARY KEY,
    sequence INTEGER NOT NULL,
    kind TEXT NOT NULL,
    arguments BLOB NOT NULL,
    deadline INTEGER NOT NULL,
    allocation_id TEXT,
    generation INTEGER NOT NULL,
    state TEXT NOT NULL,
    cancelled INTEGER NOT NULL DEFAULT 0,
    latest BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX command_state ON command (state, sequence);
CREATE TABLE event (
    sequence INTEGER PRIMARY KEY,
    command_id TEXT NOT NULL,
    state TEXT NOT NULL,
    content BLOB NOT NULL
);
CREATE INDEX event_command ON event (command_id);
CREATE TABLE allocation (
    id TEXT PRIMARY KEY,
    generation INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    touched_at INTEGER NOT NULL
) WITHOUT ROWID;
"""


def open_database(path: Path, journal_id: str) -> sqlite3.Connection:
    """The journal's database, made with this id where there is none.

    Raises:
        JournalError: it is damaged, or of a later version of the agent.
        sqlite3.Error, OSError: the disk does not let it be opened or made.
    """
    new = not path.exists()
    if new:
        # SQLite would follow the umask; its other files take the mode of this one.
        os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    # One process uses it, as the lock of the state directory sees to: nothing to wait for.
    database = sqlite3.connect(path, timeout=0.5, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if version == 0:
            _create(database, journal_id)
            sync_directory(path.parent)
        elif version != VERSION:
            raise JournalError(
                f"The journal {path} is of version {version}, this agent knows version {VERSION}: "
                "install the newer agent again."
            )
    except BaseException:
        database.close()
        raise
    return database


def _create(database: sqlite3.Connection, journal_id: str) -> None:
    database.execute("BEGIN IMMEDIATE")
    for statement in filter(str.strip, _TABLES.split(";")):
        database.execute(statement)
    database.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [
            ("journal_id", journal_id),
            ("last_sequence", 0),
            ("acknowledged", 0),
            ("clock_offset", 0),
        ],
    )
    database.execute(f"PRAGMA user_version = {VERSION}")
    database.execute("COMMIT")
