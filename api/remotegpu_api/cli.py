"""The program `remotegpu`: the control plane and its administration."""

import os
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
import uvloop
from rich.console import Console
from rich.text import Text

from remotegpu_api.event_loop import Loop
from remotegpu_api.logs import set_up_logging
from remotegpu_core.actor import SYSTEM, Role
from remotegpu_core.database.connection import Database
from remotegpu_core.errors import InvalidInput, RemoteGPUError
from remotegpu_core.services import users
from remotegpu_core.settings import Settings, load_settings

Result = TypeVar("Result")

app = typer.Typer(
    help="RemoteGPU's control plane: one GraphQL API over the GPU servers that you own.\n\n"
    "Settings come from REMOTEGPU_* environment variables and the TOML file that "
    "REMOTEGPU_CONFIG names; without any, everything is kept in an SQLite file under "
    ".remotegpu/.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
user_app = typer.Typer(help="Accounts of people.", no_args_is_help=True)
app.add_typer(user_app, name="user")

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the program; whatever a user can cause is one line on standard error and exit 1."""
    try:
        app()
    except RemoteGPUError as error:
        # Text, since a path or an address may hold what looks like markup.
        errors.print(Text.assemble(("error:", "red"), f" {error.message}"), soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    return uvloop.run(work, loop_factory=Loop)


@app.command()
def serve() -> None:
    """Serve the API. Brings the database up to date first.

    The first start makes the user `admin` and shows its password once, unless
    REMOTEGPU_ADMIN_PASSWORD sets it.
    """
    settings = load_settings()
    set_up_logging(settings)
    _run(_serve(settings))


async def _serve(settings: Settings) -> None:
    from remotegpu_api.server import running

    async with running(settings) as (server, plane):
        if plane.first_password is not None:
            console.print(
                f"First start: sign in as admin with the password {plane.first_password}\n"
                "It is shown this once.",
                markup=False,
            )
        console.print(f"Serving {settings.origin}/graphql", markup=False)
        await server.run_until_stopped()


@app.command()
def demo(
    port: Annotated[
        int, typer.Option(envvar="PORT", min=1, max=65535, help="Port on 127.0.0.1.")
    ] = 8000,
    hosts: Annotated[
        int, typer.Option(envvar="HOSTS", min=0, max=200, help="Simulated hosts.")
    ] = 3,
    data: Annotated[
        Path, typer.Option(envvar="DATA", help="State directory, kept between starts.")
    ] = Path(".remotegpu"),
    gpus: Annotated[
        int, typer.Option(envvar="GPUS", min=0, max=16, help="GPUs of each simulated host.")
    ] = 8,
) -> None:
    """Run the whole system on this machine: the API, an agent for this host, simulated hosts.

    ADMIN_PASSWORD in the environment sets the password of `admin`; one is made up otherwise.
    """
    from remotegpu_api.demo import DemoOptions, run_demo

    password = os.environ.get("ADMIN_PASSWORD") or None
    settings = load_settings(
        host="127.0.0.1",
        port=port,
        public_url=f"http://127.0.0.1:{port}",
        agent_urls=[],
        data_dir=data,
        database_url=None,
        redis_url=None,
        admin_password=password,
        log_level=os.environ.get("REMOTEGPU_LOG_LEVEL", "warning"),
    )
    set_up_logging(settings)
    _run(run_demo(settings, DemoOptions(hosts=hosts, gpus=gpus, password=password), console))


@app.command()
def migrate() -> None:
    """Bring the database up to date, as `serve` does by itself."""
    applied = _run(_with_database(load_settings(), _migrate))
    for name in applied:
        console.print(f"applied {name}", markup=False)
    if not applied:
        console.print("The database is up to date.", markup=False)


@app.command()
def schema(
    check: Annotated[
        Path | None,
        typer.Option(help="Compare with this file instead of printing; exit 1 when they differ."),
    ] = None,
) -> None:
    """Print the graph's schema in GraphQL's language."""
    from remotegpu_graphql.schema import sdl

    text = sdl()
    if check is None:
        sys.stdout.write(text)
        return
    if not check.is_file() or check.read_text() != text:
        raise InvalidInput(
            f"{check} is not the schema of today: write it with "
            f"`remotegpu schema > {check}` and commit it."
        )


@user_app.command("create")
def user_create(
    username: Annotated[str, typer.Argument(help="Letters, digits, '.', '_', '-' or '@'.")],
    role: Annotated[Role, typer.Option(help="What they may do.")] = Role.USER,
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
) -> None:
    """Add a user. Without --password-stdin a password is made up and shown once."""
    given = _read_password() if password_stdin else None

    async def create(_database: Database) -> str | None:
        from remotegpu_core.passwords import make_password

        password = given or make_password()
        await users.create_user(SYSTEM, username, password, role)
        return None if given else password

    made_up = _run(_with_database(load_settings(), create))
    console.print(f"Created the user {username}.", markup=False)
    if made_up is not None:
        console.print(f"Password, shown this once: {made_up}", markup=False)


@user_app.command("reset-password")
def user_reset_password(
    username: Annotated[str, typer.Argument(help="Whose.")],
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    keep_api_tokens: Annotated[
        bool,
        typer.Option("--keep-api-tokens", help="Leave the user's API tokens as they are."),
    ] = False,
) -> None:
    """Give a user another password, end their sessions and API tokens, and lift a lockout."""
    given = _read_password() if password_stdin else None
    done: users.PasswordReset = _run(
        _with_database(
            load_settings(),
            lambda _database: users.reset_password(
                SYSTEM, username, given, keep_api_tokens=keep_api_tokens
            ),
        )
    )
    tokens = "their API tokens were kept" if keep_api_tokens else f"{done.api_tokens} API tokens"
    console.print(f"Ended for {username}: {done.sessions} sessions, {tokens}.", markup=False)
    if done.password is not None:
        console.print(f"New password, shown this once: {done.password}", markup=False)


async def _with_database(settings: Settings, work: Any) -> Any:
    database = Database(settings)
    await database.open()
    try:
        if work is not _migrate and (pending := await database.pending_migrations()):
            raise InvalidInput(
                f"The database is behind by {len(pending)} migrations: run `remotegpu migrate`."
            )
        return await work(database)
    finally:
        await database.close()


async def _migrate(database: Database) -> list[str]:
    return await database.migrate()


def _read_password() -> str:
    password = sys.stdin.readline().rstrip("\n")
    if not password:
        raise InvalidInput("Expected a password on the first line of standard input.")
    return password


if __name__ == "__main__":
    main()
