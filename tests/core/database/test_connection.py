import asyncio
import os
import stat
from pathlib import Path

import pytest

from remotegpu_core.database.connection import Database, prepare_directory
from remotegpu_core.errors import InvalidInput, Unavailable
from remotegpu_core.settings import Settings, load_settings
from tests.core.people import make_user


async def opened_and_migrated(settings: Settings) -> None:
    database = Database(settings)
    await database.open()
    try:
        await database.migrate()
        await make_user()
    finally:
        await database.close()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_sqlite_directory_and_file_are_their_owners_only(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "deep" / "state")
    umask = os.umask(0)
    try:
        await opened_and_migrated(settings)
    finally:
        os.umask(umask)
    assert mode(settings.data_dir) == 0o700
    assert mode(settings.sqlite_path) == 0o600


async def test_a_directory_that_was_there_keeps_its_mode_and_the_file_is_still_private(
    tmp_path: Path,
) -> None:
    settings = load_settings(data_dir=tmp_path / "shared")
    settings.data_dir.mkdir()
    settings.data_dir.chmod(0o755)
    database = Database(settings)
    await database.open()
    try:
        await database.migrate()
        assert mode(settings.data_dir) == 0o755
        # The journal and the shared memory of WAL take the file's mode.
        files = {path.name: mode(path) for path in settings.data_dir.iterdir()}
        assert len(files) >= 2
        assert set(files.values()) == {0o600}
    finally:
        await database.close()


async def test_a_path_that_is_no_directory_is_explained(tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.touch()
    for path in (taken, taken / "below"):
        with pytest.raises(InvalidInput, match="REMOTEGPU_DATA_DIR"):
            await Database(load_settings(data_dir=path)).open()


async def test_a_file_that_is_no_database_is_explained(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    settings.sqlite_path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(InvalidInput, match="Could not open the database"):
        await Database(settings).open()


async def test_many_may_prepare_one_directory_at_once(tmp_path: Path) -> None:
    await asyncio.gather(
        *(asyncio.to_thread(prepare_directory, tmp_path / "state") for _ in range(50))
    )
    assert list((tmp_path / "state").iterdir()) == []


async def test_a_postgres_that_is_not_there_is_unavailable(free_port: int) -> None:
    settings = load_settings(database_url=f"postgres://me:S3cret-word@127.0.0.1:{free_port}/x")
    with pytest.raises(Unavailable, match="Is PostgreSQL running there") as caught:
        await Database(settings).open()
    assert "S3cret-word" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("/test_", "/no_such_"), "no_such_"),
        (("?", "?no_such_option=1&"), "no_such_option"),
        (("?", "?sslmode=sometimes&"), "sslmode"),
    ],
)
async def test_a_url_that_postgres_refuses_is_explained(
    postgres_url: str, change: tuple[str, str], told: str
) -> None:
    url = f"{postgres_url}?maxsize=2".replace(*change)
    with pytest.raises(InvalidInput, match=told):
        await Database(load_settings(database_url=url)).open()


async def test_a_database_can_be_opened_again_after_it_was_closed(settings: Settings) -> None:
    await opened_and_migrated(settings)
    await opened_and_migrated(settings)
