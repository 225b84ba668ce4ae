"""Tortoise's configuration, from ours."""

from typing import Any, Final

from tortoise.backends.base.config_generator import expand_db_url

from remotegpu_core.errors import InvalidInput
from remotegpu_core.settings import Settings

MODELS: Final = "remotegpu_core.models"
MIGRATIONS: Final = "remotegpu_core.migrations"
APP: Final = "remotegpu"


def tortoise_config(settings: Settings) -> dict[str, Any]:
    """Connections and apps as Tortoise takes them.

    Raises:
        InvalidInput: the database URL is not a PostgreSQL one.
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
                "busy_timeout": 10_000,
            },
        }
    if not url.startswith(("postgres://", "postgresql://")):
        raise InvalidInput(
            "REMOTEGPU_DATABASE_URL is a postgres:// URL, or unset for SQLite in "
            "REMOTEGPU_DATA_DIR."
        )
    expanded = expand_db_url("asyncpg://" + url.split("://", 1)[1])
    credentials = dict(expanded["credentials"])
    credentials.setdefault("minsize", 1)
    credentials.setdefault("maxsize", 10)
    return {"engine": "remotegpu_core.database.postgres_engine", "credentials": credentials}


#: What `tortoise makemigrations` reads (see CONTRIBUTING.md).
TORTOISE_ORM: Final = tortoise_config(Settings(database_url=None))
