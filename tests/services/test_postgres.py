import os
from pathlib import Path

import asyncpg
import pytest

from tests.services.postgres import PostgresServer
from tests.services.process import ServerFailed


async def test_every_test_has_an_empty_database_of_its_own(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    try:
        await connection.execute("CREATE TABLE left_behind (id int)")
    finally:
        await connection.close()


# The same test again: it would fail if the first one's table were still there.
test_and_empty_again = test_every_test_has_an_empty_database_of_its_own


async def test_a_database_may_be_copied_from_a_template(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as template:
        postgres_server.execute("CREATE TABLE prepared (id int)", database=_name(template))
        with postgres_server.database(template=_name(template)) as copy:
            connection = await asyncpg.connect(copy)
            try:
                assert await connection.fetch("SELECT * FROM prepared") == []
            finally:
                await connection.close()


async def test_a_database_goes_even_when_a_connection_is_left_open(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.database() as url:
        connection = await asyncpg.connect(url)
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(url)
    connection.terminate()


def test_it_has_what_bookings_need(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        postgres_server.execute("CREATE EXTENSION btree_gist", database=_name(url))


async def test_a_restart_keeps_the_address_and_the_data(postgres_server: PostgresServer) -> None:
    with postgres_server.database() as url:
        postgres_server.execute("CREATE TABLE kept (id int)", database=_name(url))
        postgres_server.restart()
        connection = await asyncpg.connect(url)
        try:
            assert await connection.fetch("SELECT * FROM kept") == []
        finally:
            await connection.close()


def test_a_refused_statement_says_why(postgres_server: PostgresServer) -> None:
    with pytest.raises(ServerFailed, match="no_such_table"):
        postgres_server.execute("SELECT * FROM no_such_table")


def test_it_never_runs_as_root(postgres_server: PostgresServer) -> None:
    owner = Path(f"/proc/{postgres_server.process.pid}").stat().st_uid
    assert owner != 0
    assert os.geteuid() in {0, owner}


def _name(url: str) -> str:
    return url.rsplit("/", 1)[1]
