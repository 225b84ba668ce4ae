"""Whatever the grants are: nobody gets bytes that a private execution would not have given them."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from remotegpu_api.encoding import encode_json
from remotegpu_api.live.group import Group
from remotegpu_api.live.hub import Hub
from remotegpu_core.actor import Actor, Role, Scope
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import NotFound
from remotegpu_core.models import MachineGrant
from remotegpu_core.services.access import visible_ids
from remotegpu_graphql.context import Context
from remotegpu_graphql.engine import Engine
from tests.core.patience import until
from tests.graphql_schema.hosts import Host, make_host
from tests.graphql_schema.people import actor_of, api_token, as_user, make_user, make_workspace

METRICS: Final = (
    "subscription M($ids: [ID!]!) { machineMetrics(machineIds: $ids) "
    "{ machineId sampledAt gpus { uuid utilization } } }"
)
FLEET: Final = "subscription { fleetChanged { machines { total online } gpus { total } } }"
MACHINES: Final = 3


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as drawn: role, how they signed in, and what they were granted, in which way."""

    role: Role
    scopes: frozenset[Scope] | None
    direct: frozenset[int]
    through_workspace: frozenset[int]


_some = st.frozensets(st.integers(0, MACHINES - 1))
_people = st.builds(
    Person,
    st.sampled_from([Role.USER, Role.USER, Role.USER, Role.ADMIN]),
    st.sampled_from([None, None, frozenset({Scope.READ}), frozenset({Scope.READ, Scope.WRITE})]),
    _some,
    _some,
)


@dataclass(eq=False)
class Viewer:
    """A member of groups who keeps what they are given."""

    actor: Actor
    sees: frozenset[int]
    received: dict[Hashable, list[bytes]] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)

    def deliver(self, stream: Hashable, payload: bytes) -> None:
        self.received.setdefault(stream, []).append(payload)

    def fail(self, errors: list[dict[str, Any]]) -> None:
        raise AssertionError(errors)

    def finish(self) -> None:
        raise AssertionError("The stream ended.")

    async def follow(self, hub: Hub, source: str, variables: dict[str, Any]) -> None:
        operation = hub.engine.prepare(source, None, signed_in=True)
        shape = hub.engine.shape(operation)
        assert shape.bytes_are_shared
        for stream in await shape.plan(hub.plane, self.actor, variables):
            group = hub.group(operation, variables, stream, self.actor)
            self.groups.append(group)
            group.join(self)

    def leave(self) -> None:
        for group in self.groups:
            group.leave(self)


async def _arrive(person: Person, hosts: list[Host]) -> Viewer:
    user = await make_user(role=person.role)
    for number in person.direct:
        await hosts[number].grant(user_id=user.id)
    if person.through_workspace:
        workspace = await make_workspace(user)
        for number in person.through_workspace:
            await hosts[number].grant(workspace_id=workspace.id)
    if person.scopes is None:
        actor = await as_user(user)
    else:
        actor = await actor_of((await api_token(user, *person.scopes))[0])
    seen = await visible_ids(actor)
    sees = frozenset(n for n, host in enumerate(hosts) if host.machine.id in seen)
    everything = frozenset(range(MACHINES))
    granted = person.direct | person.through_workspace
    assert sees == (everything if actor.sees_all_machines else granted)
    return Viewer(actor, sees)


async def _private(
    hub: Hub, viewer: Viewer, source: str, variables: dict[str, Any], number: int
) -> list[bytes]:
    """The first events that the viewer would be given alone."""
    operation = hub.engine.prepare(source, None, signed_in=True)
    events = hub.engine.follow(operation, variables, Context(hub.plane, viewer.actor))
    try:
        return [encode_json((await anext(events)).as_dict()) for _ in range(number)]
    finally:
        await events.aclose()  # type: ignore[attr-defined]  # an async generator


@settings(
    max_examples=12,
    deadline=None,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(people=st.lists(_people, min_size=2, max_size=6))
async def test_shared_bytes_are_those_of_a_private_execution(
    plane: ControlPlane, people: list[Person]
) -> None:
    hosts = [await make_host(plane, gpus=1) for _ in range(MACHINES)]
    try:
        for number, host in enumerate(hosts):
            await host.publish(utilization=10.0 + number)
        viewers = [await _arrive(person, hosts) for person in people]
        await _compare(Hub(plane, Engine()), viewers, hosts)
    finally:
        await MachineGrant.all().delete()
        for host in hosts:
            await host.machine.delete()


async def _compare(hub: Hub, viewers: list[Viewer], hosts: list[Host]) -> None:
    for viewer in viewers:
        ids = [hosts[number].id for number in sorted(viewer.sees)]
        if ids:
            await viewer.follow(hub, METRICS, {"ids": ids})
        await viewer.follow(hub, FLEET, {})
        # One machine too many, and there is nothing.
        for number in set(range(MACHINES)) - viewer.sees:
            with pytest.raises(NotFound):
                await viewer.follow(hub, METRICS, {"ids": [*ids, hosts[number].id]})
    try:
        await until(lambda: all(len(v.received) == len(v.groups) for v in viewers))
        _look_at_groups(hub, viewers, hosts)
        for viewer in viewers:
            ids = [hosts[number].id for number in sorted(viewer.sees)]
            alone = await _private(hub, viewer, FLEET, {}, 1)
            if ids:
                alone += await _private(hub, viewer, METRICS, {"ids": ids}, len(ids))
            given = [payload for payloads in viewer.received.values() for payload in payloads]
            assert sorted(given) == sorted(alone)
            everything = b"".join(given).decode()
            for number, host in enumerate(hosts):
                # As text, whatever the field: what is not theirs is nowhere in it.
                assert (host.id in everything) is (number in viewer.sees)
                assert (host.gpus[0].uuid in everything) is (number in viewer.sees)
    finally:
        for viewer in viewers:
            viewer.leave()


def _look_at_groups(hub: Hub, viewers: list[Viewer], hosts: list[Host]) -> None:
    together = {viewer: frozenset(viewer.groups) for viewer in viewers}
    for group in hub.groups.values():
        members = [viewer for viewer in viewers if viewer in group.members]
        assert members
        assert len({(v.actor.role, v.actor.scopes) for v in members}) == 1
        stream = group.key.stream
        assert isinstance(stream, tuple)
        kind, what = stream[:2]
        if kind == "machineMetrics":
            (number,) = [n for n, host in enumerate(hosts) if host.machine.id == what]
            assert all(number in viewer.sees for viewer in members)
        else:
            # Numbers about a fleet are about all of it.
            assert len({viewer.sees for viewer in members}) == 1
    for one in viewers:
        for other in viewers:
            same = (one.actor.role, one.actor.scopes, one.sees) == (
                other.actor.role,
                other.actor.scopes,
                other.sees,
            )
            # And who may see the same, shares all of it.
            assert (together[one] == together[other]) is same
