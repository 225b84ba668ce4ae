"""Tortoise's configuration, from ours."""

import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from remotegpu_core.errors import InvalidInput
from remotegpu_core.settings import Settings
from remotegpu_core.trust import client_context
from remotegpu_protocol.grammar import shorten

MODELS: Final = "remotegpu_core.models"
MIGRATIONS: Final = "remotegpu_core.migrations"
APP: Final = "remotegpu"
#: Milliseconds that a change waits for another process which is writing to the SQLite file.
BUSY_TIMEOUT = 10_000


def tortoise_config(settings: Settings) -> dict[str, Any]:
    """Connections and apps as Tortoise takes them.

    Raises:
        InvalidInput: the database URL is not a PostgreSQL one, or says what cannot be.
    """
    return {
        "connections": {"default": _connection(settings)},
        "apps": {
            APP: {
                "models": [MODELS],
                "default_connection": "default",
                "migrations": MIGRATIONS,
            }
        },
        "use_tz": True,
        "timezone": "UTC",
    }


def _connection(settings: Settings) -> dict[str, Any]:
    url = settings.database_url
    if url is None:
        return {
            "engine": "remotegpu_core.database.sqlite_engine",
            "credentials": {
                "file_path": str(settings.sqlite_path),
                "journal_mode": "WAL",
                # With WAL, NORMAL may lose the last commits at a power cut; what we promise
                # about enrolments and revocations does not allow that.
                "synchronous": "FULL",
                "foreign_keys": "ON",
                "busy_timeout": BUSY_TIMEOUT,
            },
        }
    credentials = {"minsize": 1, "maxsize": 10, **_credentials(url)}
    if credentials.get("ssl") in _VERIFYING:
        credentials["ssl"] = _context(settings.ca_file, credentials["ssl"])
    # One connection holds the lock of a migration while another migrates.
    credentials["maxsize"] = max(2, credentials["maxsize"])
    return {"engine": "remotegpu_core.database.postgres_engine", "credentials": credentials}


#: What may follow the `?` of the URL: asyncpg's names but for `sslmode`, which is libpq's.
_OPTIONS: Final[dict[str, tuple[str, Callable[[str], object]]]] = {
    "minsize": ("minsize", int),
    "maxsize": ("maxsize", int),
    "sslmode": ("ssl", str),
    "host": ("host", str),
    "timeout": ("timeout", float),
    "statement_cache_size": ("statement_cache_size", int),
    "application_name": ("application_name", str),
}


#: Modes in which the server's certificate is looked at, the second with its name.
_VERIFYING: Final = ("verify-ca", "verify-full")


def _context(ca_file: Path | None, mode: str) -> ssl.SSLContext:
    """asyncpg by itself would trust libpq's ~/.postgresql/root.crt and nothing else."""
    context = client_context(ca_file, check_hostname=mode == "verify-full")
    certificate = os.environ.get("PGSSLCERT")
    if certificate:
        try:
            context.load_cert_chain(certificate, os.environ.get("PGSSLKEY"))
        except (OSError, ssl.SSLError) as error:
            raise _refused(
                f"the certificate in PGSSLCERT cannot be used ({error.strerror or error})"
            ) from None
    return context


def _credentials(url: str) -> dict[str, Any]:
    # No message repeats a part of the URL but the names of options: a password with a `/` or `#`
    # that was not escaped ends up in the port, the path or nowhere.
    try:
        parts = urlsplit(url)
        port = parts.port or 5432
    except ValueError:
        raise _refused("look at its port and its brackets") from None
    if parts.scheme not in {"postgres", "postgresql"}:
        raise _refused("another kind of database was given")
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database or parts.fragment:
        raise _refused("it ends with the name of one database")
    return {
        "host": parts.hostname,
        "port": port,
        "user": unquote(parts.username) if parts.username else None,
        "password": unquote(parts.password) if parts.password else None,
        "database": database,
        **_options(parts),
    }


def _options(parts: SplitResult) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _OPTIONS:
            raise _refused(f"{shorten(name)!r} is none of its options {', '.join(_OPTIONS)}")
        key, cast = _OPTIONS[name]
        try:
            found[key] = cast(value)
        except ValueError:
            raise _refused(f"its option {name} is a number") from None
    return found


def _refused(reason: str) -> InvalidInput:
    return InvalidInput(
        f"REMOTEGPU_DATABASE_URL cannot be used: {reason}. Expected "
        "postgres://user:password@host:port/name, special characters of the password "
        "percent-encoded; without it, SQLite in REMOTEGPU_DATA_DIR is used."
    )


#: What `tortoise makemigrations` reads (see CONTRIBUTING.md): the defaults, whatever is set.
TORTOISE_ORM: Final = tortoise_config(Settings.model_construct())
