"""Rights that end, end live streams within two seconds: with the bus and without it."""

import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from remotegpu_core.services import sign_in as sign_in_service
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE, USERS_AND_TOKENS, VIEWER
from tests.api.host import enrolled, sample
from tests.api.plane import Backend, Json, Server, serving
from tests.api.viewer import viewing
from tests.core.patience import until
from tests.services.postgres import PostgresServer
from tests.services.redis import RedisServer

METRICS = "MachineMetrics"
#: The promise is two seconds; a test may not need more than this.
SOON = 2.0


@pytest.fixture(params=("embedded", "redis away"))
async def server(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    postgres_server: PostgresServer,
    postgres_template: str,
    embedded: Backend,
) -> AsyncIterator[Server]:
    """With the in-process bus, and after a real one died. A test of `serve` has it alive."""
    if request.param == "embedded":
        async with serving(embedded, tmp_path / "state") as started:
            yield started
        return
    redis: RedisServer = request.getfixturevalue("private_redis")
    with postgres_server.database(template=postgres_template) as url:
        backend = Backend("scaled out", database_url=url, redis_url=redis.url)
        async with serving(backend, tmp_path / "state") as started:
            redis.kill()
            yield started


async def _token(server: Server, owner: str, expires_at: str | None = None) -> tuple[str, str]:
    """Secret and id of an API token that may read."""
    chosen: Json = {"name": "viewer", "scopes": ["READ"]}
    if expires_at is not None:
        chosen["expiresAt"] = expires_at
    made = await server.ask(
        USERS_AND_TOKENS, {"input": chosen}, token=owner, operation="CreateApiToken"
    )
    payload = made["createApiToken"]
    assert payload["userErrors"] == []
    return payload["token"], payload["apiToken"]["id"]


async def test_a_revoked_api_token(server: Server) -> None:
    admin = await server.sign_in()
    secret, token_id = await _token(server, admin)
    kept, _ = await _token(server, admin)
    async with viewing(server, secret) as viewer, viewing(server, kept) as bystander:
        await (await viewer.subscribe(LIVE, operation="FleetPulse")).data()
        began = time.monotonic()
        revoked = await server.ask(
            USERS_AND_TOKENS, {"id": token_id}, token=admin, operation="RevokeApiToken"
        )
        assert revoked["revokeApiToken"]["userErrors"] == []
        code, reason = await viewer.closed(within=SOON)
        assert time.monotonic() - began < SOON
        assert code == 4403
        assert "revoked" in (reason or "")
        following = await bystander.subscribe(LIVE, operation="FleetPulse")
        await following.data()
    assert (await server.post(VIEWER, token=secret)).status_code == 401


async def test_a_session_that_was_signed_out(server: Server) -> None:
    token = await server.sign_in()
    async with viewing(server, token) as viewer:
        await (await viewer.subscribe(LIVE, operation="MachineChanges")).data()
        await server.ask("mutation { signOut { user { id } } }", token=token)
        assert (await viewer.closed(within=SOON))[0] == 4403


async def test_a_token_that_expires(server: Server) -> None:
    admin = await server.sign_in()
    end = datetime.now(UTC) + timedelta(seconds=1.5)
    secret, _ = await _token(server, admin, end.isoformat())
    async with viewing(server, secret) as viewer:
        await (await viewer.subscribe(LIVE, operation="FleetPulse")).data()
        assert (await viewer.closed(within=1.5 + SOON))[0] == 4403
        assert datetime.now(UTC) >= end
    assert (await server.post(VIEWER, token=secret)).status_code == 401


async def test_a_user_who_was_disabled(server: Server) -> None:
    admin = await server.sign_in()
    ada_id, ada = await server.make_user(admin, "ada")
    secret, _ = await _token(server, ada)
    async with (
        viewing(server, ada) as viewer,
        viewing(server, secret) as program,
        viewing(server, admin) as bystander,
    ):
        for each in (viewer, program):
            await (await each.subscribe(LIVE, operation="FleetPulse")).data()
        disabled = await server.ask(
            "mutation($id: ID!) { disableUser(input: {id: $id}) "
            "{ user { disabledAt } userErrors { code } } }",
            {"id": ada_id},
            token=admin,
        )
        assert disabled["disableUser"]["userErrors"] == []
        assert disabled["disableUser"]["user"]["disabledAt"] is not None
        for each in (viewer, program):
            assert (await each.closed(within=SOON))[0] == 4403
        await (await bystander.subscribe(LIVE, operation="FleetPulse")).data()
    for token in (ada, secret):
        assert (await server.post(VIEWER, token=token)).status_code == 401


async def test_a_password_that_was_changed_elsewhere(server: Server) -> None:
    admin = await server.sign_in()
    _, here = await server.make_user(admin, "ada")
    there = await server.sign_in("ada", "ada-Passw0rd-1")
    async with viewing(server, here) as mine, viewing(server, there) as other:
        await server.ask(
            "mutation($i: ChangePasswordInput!) { changePassword(input: $i) "
            "{ userErrors { code } } }",
            {"i": {"currentPassword": "ada-Passw0rd-1", "newPassword": "ada-Passw0rd-2"}},
            token=here,
        )
        assert (await other.closed(within=SOON))[0] == 4403
        operation = await mine.subscribe(VIEWER)
        assert (await operation.data())["viewer"]["user"]["username"] == "ada"


async def test_a_machine_grant_ends_for_one_and_not_for_the_others(server: Server) -> None:
    admin = await server.sign_in()
    one, two = await make_hosts(server, admin, "gpu-01", "gpu-02")
    (ada_id, ada), (bob_id, bob) = [await server.make_user(admin, name) for name in ("ada", "bob")]
    for user_id in (ada_id, bob_id):
        for host in (one, two):
            await server.ask(
                USERS_AND_TOKENS,
                {"machineId": host.id, "userId": user_id},
                token=admin,
                operation="GrantMachine",
            )
    async with viewing(server, ada) as hers, viewing(server, bob) as his:
        both = {"machineIds": [one.id, two.id]}
        shared = await hers.subscribe(LIVE, both, operation=METRICS)
        kept = await hers.subscribe(LIVE, {"machineIds": [two.id]}, operation=METRICS)
        # Runs per viewer: it reaches the machine. So does the right to it.
        private = await hers.subscribe(
            "subscription($ids: [ID!]!) { ...Live } fragment Live on Subscription "
            "{ machineMetrics(machineIds: $ids) { sampledAt } }",
            {"ids": [one.id]},
        )
        his_own = await his.subscribe(LIVE, both, operation=METRICS)
        await until(lambda: sum(len(g.members) for g in server.hub.groups.values()) == 5)
        began = time.monotonic()
        await server.ask(
            USERS_AND_TOKENS,
            {"machineId": one.id, "userId": ada_id},
            token=admin,
            operation="RevokeMachineGrant",
        )
        for operation in (shared, private):
            ended = await operation.end(within=SOON)
            assert time.monotonic() - began < SOON
            assert ended.kind == "error"
            assert ended.errors[0]["extensions"]["code"] == "NOT_FOUND"
        async with one.connected() as link, two.connected():
            # What goes on, goes on; without Redis there are no samples to see it by.
            await link.send(sample())
            assert sum(len(g.members) for g in server.hub.groups.values()) == 3
        assert not kept.has_ended
        assert not his_own.has_ended
        # And it cannot be taken up again.
        again = await hers.subscribe(LIVE, {"machineIds": [one.id]}, operation=METRICS)
        assert (await again.end()).errors[0]["extensions"]["code"] == "NOT_FOUND"


async def test_leaving_a_workspace_ends_its_grants(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    ada_id, ada = await server.make_user(admin, "ada")
    created = await server.ask(
        'mutation { createWorkspace(input: {name: "lab"}) { workspace { id } } }', token=admin
    )
    lab = created["createWorkspace"]["workspace"]["id"]
    member = {"i": {"workspaceId": lab, "userId": ada_id}}
    await server.ask(
        "mutation($i: SetWorkspaceMemberInput!) { setWorkspaceMember(input: $i) "
        "{ userErrors { code } } }",
        {"i": {**member["i"], "role": "MEMBER"}},
        token=admin,
    )
    await server.ask(
        USERS_AND_TOKENS,
        {"machineId": host.id, "workspaceId": lab},
        token=admin,
        operation="GrantMachine",
    )
    async with viewing(server, ada) as viewer:
        operation = await viewer.subscribe(LIVE, {"machineIds": [host.id]}, operation=METRICS)
        await until(lambda: server.hub.groups)
        await server.ask(
            "mutation($i: RemoveWorkspaceMemberInput!) { removeWorkspaceMember(input: $i) "
            "{ userErrors { code } } }",
            member,
            token=admin,
        )
        ended = await operation.end(within=SOON)
        assert ended.errors[0]["extensions"]["code"] == "NOT_FOUND"


async def test_the_same_question_is_asked_once_for_many_viewers(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0
    original = sign_in_service.still_valid

    async def counting(actors: list[object]) -> object:
        nonlocal asked
        asked += 1
        return await original(actors)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr("remotegpu_api.live.hub.still_valid", counting)
    admin = await server.sign_in()
    secret, token_id = await _token(server, admin)
    async with viewing(server, secret) as one, viewing(server, secret) as two:
        await server.ask(
            USERS_AND_TOKENS, {"id": token_id}, token=admin, operation="RevokeApiToken"
        )
        for viewer in (one, two):
            assert (await viewer.closed(within=SOON))[0] == 4403
    assert 1 <= asked <= 2
