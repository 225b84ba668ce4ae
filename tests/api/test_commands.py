"""`user`, `migrate` and `schema`: administration beside a running server."""

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path

from remotegpu_graphql.schema import sdl
from tests.api.documents import VIEWER
from tests.api.plane import Backend, Server
from tests.api.program import call, call_here
from tests.api.viewer import viewing


def _of(server: Server) -> dict[str, str]:
    """The environment of a command beside this server."""
    settings = server.plane.settings
    found = {"REMOTEGPU_DATA_DIR": str(settings.data_dir)}
    if settings.database_url is not None:
        found["REMOTEGPU_DATABASE_URL"] = settings.database_url
    return found


async def test_a_user_is_created_beside_a_running_server(server: Server) -> None:
    environment = _of(server)
    made = await call("user", "create", "Ada", environment=environment)
    assert made.code == 0, made.err
    shown = re.search(r"shown this once: (\S+)", made.out)
    assert shown is not None
    token = await server.sign_in("ada", shown.group(1))
    viewer = (await server.ask(VIEWER, token=token))["viewer"]["user"]
    assert (viewer["username"], viewer["role"]) == ("Ada", "USER")
    given = await call(
        *("user", "create", "root", "--role", "ADMIN", "--password-stdin"),
        stdin="mallory-Passw0rd-1\nsecond line\n",
        environment=environment,
    )
    assert given.code == 0, given.err
    assert "mallory" not in given.out
    assert await server.sign_in("root", "mallory-Passw0rd-1")
    events = await server.ask(
        '{ auditEvents(filter: {action: "createUser"}) '
        "{ edges { node { actor { __typename } outcome sourceAddress } } } }",
        token=await server.sign_in(),
    )
    newest = events["auditEvents"]["edges"][0]["node"]
    assert newest == {"actor": None, "outcome": "SUCCEEDED", "sourceAddress": None}


def test_a_user_that_cannot_be_created_gets_one_line(embedded: Backend, tmp_path: Path) -> None:
    assert embedded.sqlite is not None
    shutil.copy(embedded.sqlite, tmp_path / "remotegpu.sqlite3")
    environment = {"REMOTEGPU_DATA_DIR": str(tmp_path)}
    stdin = "--password-stdin"
    for arguments, said, hint in (
        (["user", "create", "ADMIN", stdin], "mallory-Passw0rd-1\n", "'ADMIN'"),
        (["user", "create", "eve", stdin], "short\n", "characters"),
        (["user", "create", "eve", stdin], "", "standard input"),
        (["user", "create", "a b[/red]", stdin], "mallory-Passw0rd-1\n", "a b[/red]"),
        (["user", "reset-password", "nobody"], "", "'nobody'"),
        (["user", "reset-password", "admin", stdin], "short\n", "characters"),
    ):
        failed = call_here(*arguments, stdin=said, environment=environment)
        assert hint in failed.one_line
        assert "mallory" not in failed.err


async def test_a_reset_ends_the_sessions_and_the_lockout(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    _, ada = await server.make_user(admin, "ada")
    for _ in range(5):
        await server.http.post("/sign-in", json={"username": "ada", "password": "wrong"})
    locked = await server.http.post(
        "/sign-in", json={"username": "ada", "password": "ada-Passw0rd-1"}
    )
    assert locked.status_code == 429
    async with viewing(server, ada) as viewer, viewing(server, admin) as bystander:
        reset = await call("user", "reset-password", "ada", environment=_of(server))
        assert reset.code == 0, reset.err
        # The command cannot nudge: the poll finds it.
        assert (await viewer.closed(within=2))[0] == 4403
        operation = await bystander.subscribe(VIEWER)
        await operation.data()
    shown = re.search(r"shown this once: (\S+)", reset.out)
    assert shown is not None
    assert await server.sign_in("ada", shown.group(1))
    old = await server.http.post("/sign-in", json={"username": "ada", "password": "ada-Passw0rd-1"})
    assert old.json()["error"]["code"] == "INVALID_CREDENTIALS"


def test_migrate_brings_the_database_up_to_date_once(tmp_path: Path) -> None:
    environment = {"REMOTEGPU_DATA_DIR": str(tmp_path / "data")}
    behind = call_here("user", "create", "ada", environment=environment)
    assert "remotegpu migrate" in behind.one_line
    first = call_here("migrate", environment=environment)
    assert first.code == 0, first.err
    assert "applied 0001_initial" in first.out
    second = call_here("migrate", environment=environment)
    assert second.out == "The database is up to date.\n"
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "remotegpu.sqlite3")) as database:
        # Who is there is for `serve` to say.
        assert database.execute("SELECT count(*) FROM user_account").fetchone() == (0,)


def test_the_schema_is_printed_and_compared(tmp_path: Path) -> None:
    printed = call_here("schema")
    assert printed.code == 0
    assert printed.out == sdl()
    file = tmp_path / "schema.graphql"
    file.write_text(printed.out)
    assert call_here("schema", "--check", str(file)).code == 0
    file.write_text(printed.out + "\n")
    differs = call_here("schema", "--check", str(file))
    assert "is not the schema of today" in differs.one_line
    assert call_here("schema", "--check", str(tmp_path / "none")).one_line
