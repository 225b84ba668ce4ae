"""Members of one shared group lose their rights, each in another way; the others miss nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from remotegpu_api.live.group import Group
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.models import User
from remotegpu_core.versions import Topic, bump
from tests.api.conftest import make_hosts
from tests.api.documents import LIVE, USERS_AND_TOKENS
from tests.api.host import Link, enrolled, sample
from tests.api.plane import Json, Server
from tests.api.viewer import Operation, viewing

#: What is promised, in seconds.
SOON = 2.0


class Stay:
    """Somebody who keeps watching, and must be given every sample."""

    def __init__(self, link: Link, operation: Operation) -> None:
        self._link = link
        self._operation = operation
        self.number = 0

    async def next(self) -> None:
        self.number += 1
        # A utilisation ends at 100.
        utilization = float(self.number % 100)
        await self._link.send(sample(utilization=utilization))
        event = (await self._operation.data())["machineMetrics"]
        assert event["gpus"][0]["utilization"] == utilization
        # Below what an agent may send for long (`MESSAGE_RATE`).
        await asyncio.sleep(0.05)

    async def until(self, happened: Callable[[], bool]) -> float:
        """Go on until then; how long that took."""
        began = time.monotonic()
        while not happened():
            await self.next()
            assert time.monotonic() - began < 10
        took = time.monotonic() - began
        for _ in range(3):
            await self.next()
        return took


async def _grant(server: Server, admin: str, machine: str, user: str) -> None:
    variables = {"machineId": machine, "userId": user}
    await server.ask(USERS_AND_TOKENS, variables, token=admin, operation="GrantMachine")


async def test_each_way_to_lose_a_right_ends_one_member_only(server: Server) -> None:
    admin = await server.sign_in()
    host, other = await make_hosts(server, admin, "gpu-01", "gpu-02")
    names = ("stays", "granted", "disabled", "signed out", "many")
    people = {name: await server.make_user(admin, name.replace(" ", "-")) for name in names}
    for user_id, _ in people.values():
        await _grant(server, admin, host.id, user_id)
    await _grant(server, admin, other.id, people["many"][0])

    async def revoked() -> None:
        variables = {"machineId": host.id, "userId": people["granted"][0]}
        await server.ask(USERS_AND_TOKENS, variables, token=admin, operation="RevokeMachineGrant")

    async def disabled() -> None:
        async with transaction():
            await User.filter(username_key="disabled").update(disabled_at=now_ms())
            await bump(Topic.ACCESS)

    async def signed_out() -> None:
        await server.ask("mutation { signOut { user { id } } }", token=people["signed out"][1])

    async def lost_another() -> None:
        # Of two machines in one subscription the other's right ends: all of it does.
        variables = {"machineId": other.id, "userId": people["many"][0]}
        await server.ask(USERS_AND_TOKENS, variables, token=admin, operation="RevokeMachineGrant")

    ways: dict[str, Callable[[], Awaitable[Any]]] = {
        "granted": revoked,
        "disabled": disabled,
        "signed out": signed_out,
        "many": lost_another,
    }
    async with host.connected() as link, AsyncExitStack() as stack:
        viewers = {
            name: await stack.enter_async_context(viewing(server, token))
            for name, (_, token) in people.items()
        }
        operations = {
            name: await viewer.subscribe(
                LIVE,
                {"machineIds": [host.id, other.id] if name == "many" else [host.id]},
                operation="MachineMetrics",
            )
            for name, viewer in viewers.items()
        }
        stay = Stay(link, operations["stays"])
        group = await _one_group(server, stay, 5)
        for left, (name, lose) in enumerate(ways.items(), 1):
            await lose()
            operation = operations[name]
            assert await stay.until(lambda operation=operation: operation.has_ended) < SOON  # type: ignore[misc]  # bound now
            assert len(group.members) == 5 - left
        # Never rebuilt: what stays was given each sample once.
        assert _group(server, host.machine_id) is group
        assert group.executions == stay.number


async def test_tokens_that_expire_and_are_revoked_end_their_members_only(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    soon = datetime.now(UTC) + timedelta(seconds=2)
    lifetimes = {"stays": None, "expires": soon, "is revoked": None}
    made = {}
    for name, expires_at in lifetimes.items():
        chosen: Json = {"name": name, "scopes": ["READ"]}
        if expires_at is not None:
            chosen["expiresAt"] = expires_at.isoformat()
        answer = await server.ask(
            USERS_AND_TOKENS, {"input": chosen}, token=admin, operation="CreateApiToken"
        )
        made[name] = answer["createApiToken"]
    async with host.connected() as link, AsyncExitStack() as stack:
        operations = {}
        for name, payload in made.items():
            viewer = await stack.enter_async_context(viewing(server, payload["token"]))
            operations[name] = await viewer.subscribe(
                LIVE, {"machineIds": [host.id]}, operation="MachineMetrics"
            )
        stay = Stay(link, operations["stays"])
        group = await _one_group(server, stay, 3)
        await stay.until(lambda: operations["expires"].has_ended)
        assert soon <= datetime.now(UTC) < soon + timedelta(seconds=SOON)
        await server.ask(
            USERS_AND_TOKENS,
            {"id": made["is revoked"]["apiToken"]["id"]},
            token=admin,
            operation="RevokeApiToken",
        )
        assert await stay.until(lambda: operations["is revoked"].has_ended) < SOON
        assert _group(server, host.machine_id) is group
        assert group.executions == stay.number


def _group(server: Server, machine_id: str) -> Group:
    (group,) = [g for g in server.hub.groups.values() if machine_id in str(g.key.stream)]
    return group


async def _one_group(server: Server, stay: Stay, members: int) -> Group:
    await stay.next()
    while True:
        groups = [g for g in server.hub.groups.values() if len(g.members) == members]
        if groups:
            return groups[0]
        await stay.next()
