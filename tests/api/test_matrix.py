"""Who may use what, asked over HTTP and over websocket as clients do.

The matrix itself is tried on both databases by `tests/graphql_schema/test_permissions.py`, and that a
refused mutation changes nothing. Here the transports are between: tokens, statuses and messages.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from remotegpu_core.models import Freeze
from tests.api.plane import Backend, Server, serving
from tests.api.viewer import Ended, Viewer, dialled, viewing
from tests.graphql_schema.matrix import NOTHING, OK, ROOT_FIELDS, UNAUTHENTICATED, Entry
from tests.graphql_schema.world import ANONYMOUS, CALLERS, REVOKED, World, dump, make_world

Asking = Callable[[Server, World, str, bool], Awaitable[None]]

#: What a caller who may not does without a trace but for the audit trail.
EVERYTHING_ELSE = frozenset({"audit_event"})

#: Their refusals are another part's, and they change who asks.
LEFT_OUT = {"Mutation.signIn", "Mutation.signOut", "Mutation.changePassword"}


def _told(world: World, entry: Entry, field: str, body: dict[str, Any]) -> str:
    data = body.get("data") and body["data"].get(field)
    if body.get("errors"):
        assert data is None, "an error and an object"
        return str(body["errors"][0]["extensions"]["code"])
    if isinstance(data, dict) and data.get("userErrors"):
        return str(data["userErrors"][0]["code"])
    return OK if data is not None and entry.shows(world, data) else NOTHING


def _asked(caller: str, *, writing: bool) -> list[tuple[str, Entry]]:
    """What this caller may be asked for without changing the world for the next one."""
    return [
        (name, entry)
        for name, entry in ROOT_FIELDS.items()
        if name not in LEFT_OUT
        and name.startswith("Mutation.") == writing
        and not (writing and entry.outcomes[caller] == OK)
    ]


async def _ask_over_http(server: Server, world: World, caller: str, writing: bool) -> None:
    for name, entry in _asked(caller, writing=writing):
        if not name.startswith("Subscription."):
            found = await _over_http(server, world, caller, name, entry)
            assert found == entry.outcomes[caller], (caller, name)


async def _ask_over_websocket(server: Server, world: World, caller: str, writing: bool) -> None:
    if caller == REVOKED:
        await _is_shut_out(server, world)
        return
    async with viewing(server, world.tokens.get(caller)) as viewer:
        for name, entry in _asked(caller, writing=writing):
            found = await _over_websocket(viewer, world, caller, name, entry)
            assert found == entry.outcomes[caller], (caller, name)


async def _over_http(server: Server, world: World, caller: str, name: str, entry: Entry) -> str:
    response = await server.post(
        entry.document, entry.variables(world, caller), token=world.tokens.get(caller)
    )
    if caller == REVOKED:
        assert response.status_code == 401
    return _told(world, entry, name.rpartition(".")[2], response.json())


async def _over_websocket(
    viewer: Viewer, world: World, caller: str, name: str, entry: Entry
) -> str:
    operation = await viewer.subscribe(entry.document, entry.variables(world, caller))
    body: dict[str, Any]
    try:
        body = await operation.next()
    except Ended as ended:
        body = {"errors": ended.errors}
    if name.startswith("Subscription.") and not operation.has_ended:
        await viewer.complete(operation)
    return _told(world, entry, name.rpartition(".")[2], body)


async def test_every_field_for_every_caller_over_http(server: Server) -> None:
    await _ask_everything(server, _ask_over_http)


async def test_every_field_for_every_caller_over_websocket(
    scaled_out: Backend, tmp_path: Path
) -> None:
    async with serving(scaled_out, tmp_path / "state") as server:
        await _ask_everything(server, _ask_over_websocket)


async def _ask_everything(server: Server, ask: Asking) -> None:
    world = await make_world(server.plane)
    # The server has just started; in the matrix's world nothing is frozen.
    await Freeze.all().delete()
    before = await dump(without=EVERYTHING_ELSE)
    # Refusals fill the audit trail, of which the world's event is to be on the newest page.
    for writing in (False, True):
        for caller in CALLERS:
            await ask(server, world, caller, writing)
    after = await dump(without=EVERYTHING_ELSE)
    changed = {table for table in before if before[table] != after[table]}
    # Tokens say when they were last used, and the server goes about its duties.
    assert changed <= {"api_token", "session", "replica", "lease", "clock_stamp"}, changed


async def _is_shut_out(server: Server, world: World) -> None:
    async with dialled(server) as websocket:
        viewer = Viewer(websocket)
        payload = {"token": world.tokens[REVOKED]}
        await viewer.send({"type": "connection_init", "payload": payload})
        assert (await viewer.closed())[0] == 4403


def test_nobody_is_left_out() -> None:
    assert ANONYMOUS in CALLERS
    assert all(entry.outcomes[REVOKED] in {UNAUTHENTICATED, OK} for entry in ROOT_FIELDS.values())
