"""Who has no grant learns of no machine, by whatever they ask."""

import json
from typing import Any

import pytest

from remotegpu_core.actor import SYSTEM, Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.ids import new_id
from remotegpu_core.models import AuditEvent, Outcome
from remotegpu_core.services.grants import revoke_machine_grant
from remotegpu_core.services.presence import connect, disconnect
from remotegpu_graphql.errors import RequestRefused
from remotegpu_graphql.ids import encode_id
from tests.graphql_schema.asking import ask, following
from tests.graphql_schema.hosts import make_host
from tests.graphql_schema.people import as_user
from tests.graphql_schema.world import ANONYMOUS, GRANTED, STRANGER, World, make_world

MACHINE = (
    "{ __typename id name hostname: specs { hostname } labels { key value } "
    "gpus { id uuid model machine { id name } } latestMetrics { machineId } }"
)


@pytest.fixture
async def world(any_plane: ControlPlane) -> World:
    return await make_world(any_plane)


def _secrets(world: World) -> list[str]:
    """Everything by which the machine could be recognised."""
    host = world.host
    return [
        world.marker,
        host.id,
        str(host.machine.id),
        host.machine.id.hex,
        *(gpu.uuid for gpu in host.gpus),
        *host.gpu_ids,
    ]


def _assert_nothing_of(world: World, *answers: Any) -> None:
    text = json.dumps(answers)
    for secret in _secrets(world):
        assert secret not in text, secret


FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"mine": True},
    {"mine": False},
    {"presence": ["ONLINE", "UNREACHABLE", "LOST"]},
    {"lifecycle": ["IN_SERVICE"]},
    {"health": ["HEALTHY"]},
    {"availability": ["AVAILABLE"]},
    {"gpuModel": "H100"},
    {"text": "node"},
    {"text": ""},
    {"text": "%"},
)


@pytest.mark.parametrize("caller", [STRANGER, ANONYMOUS])
async def test_no_list_number_or_lookup_shows_it(world: World, caller: str) -> None:
    plane, actor = world.plane, await world.actor(caller)
    listing = (
        "query Q($filter: MachineFilter, $last: Int, $order: MachineOrder) { "
        "machines(filter: $filter, last: $last, orderBy: $order) "
        f"{{ totalCount pageInfo {{ startCursor endCursor hasNextPage hasPreviousPage }} "
        f"edges {{ cursor node {MACHINE} }} }} }}"
    )
    answers = []
    for filter_ in (*FILTERS, {"labels": [{"key": "rack", "value": f"{world.marker}-rack"}]}):
        for last, order in ((None, None), (5, {"field": "CREATED_AT", "direction": "DESC"})):
            variables = {"filter": filter_, "last": last, "order": order}
            body = await ask(plane, actor, listing, variables)
            machines = body["data"]["machines"]
            if caller == STRANGER:
                assert machines["totalCount"] == 0
                assert machines["edges"] == []
            else:
                assert machines is None
            answers.append(body)
    fleet = "{ fleet { machines { total online available } gpus { total utilization power } } }"
    body = await ask(plane, actor, fleet)
    if caller == STRANGER:
        assert body["data"]["fleet"] == {
            "machines": {"total": 0, "online": 0, "available": 0},
            "gpus": {"total": 0, "utilization": None, "power": None},
        }
    else:
        assert body["data"] == {"fleet": None}
    answers.append(body)
    for id_ in (world.host.id, *world.host.gpu_ids):
        lookups = (
            "query Q($id: ID!) { machine(id: $id) { name } gpu(id: $id) { uuid } "
            "node(id: $id) { __typename id ... on Machine { name } ... on Gpu { uuid } } "
            "nodes(ids: [$id, $id]) { id } }"
        )
        body = await ask(plane, actor, lookups, {"id": id_})
        assert all(value in (None, [None, None]) for value in body["data"].values())
        answers.append(body)
    _assert_nothing_of(world, answers)


@pytest.mark.parametrize("caller", [STRANGER, ANONYMOUS])
async def test_what_exists_and_what_does_not_answer_alike(world: World, caller: str) -> None:
    """Byte for byte: no error text, code or path tells one from the other."""
    plane, actor = world.plane, await world.actor(caller)
    lookups = (
        "query Q($id: ID!) { machine(id: $id) { name } gpu(id: $id) { uuid } "
        "node(id: $id) { id } nodes(ids: [$id]) { id } "
        "machines(filter: {text: $text}) { totalCount } "
        "auditEvents(filter: {targetId: $id}) { totalCount } }"
    ).replace("($id: ID!)", "($id: ID!, $text: String)")
    mutations = (
        "mutation M($id: ID!, $user: ID!) { "
        "grantMachine(input: {machineId: $id, userId: $user}) "
        "{ machine { id } userErrors { field message code } } "
        "revokeMachineGrant(input: {machineId: $id, userId: $user}) "
        "{ machine { id } userErrors { field message code } } "
        "createEnrollment(input: {machineId: $id}) "
        "{ token userErrors { field message code } } "
        "revokeApiToken(input: {id: $id}) { apiToken { id } userErrors { field message code } } }"
    )
    real, none = world.host.id, encode_id("Machine", new_id())
    user = encode_id("User", world.stranger.id)
    for source, name in ((lookups, world.host.machine.name), (mutations, "")):
        answers = [
            await ask(plane, actor, source, {"id": id_, "text": text, "user": user})
            for id_, text in ((real, name), (none, f"{name}x"))
        ]
        for answer in answers:
            # What is left to spend becomes less with each question.
            del answer["extensions"]["remaining"]
        assert answers[0] == answers[1]
        _assert_nothing_of(world, answers)
    watch = "subscription S($id: ID!) { machineMetrics(machineIds: [$id]) { machineId } }"
    refusals = [await _refusal(world, actor, watch, {"id": id_}) for id_ in (real, none)]
    assert refusals[0] == refusals[1]


async def _refusal(world: World, actor: Actor, source: str, variables: dict[str, Any]) -> Any:
    async with following(world.plane, actor, source, variables) as live:
        with pytest.raises(RequestRefused) as refused:
            await live.next()
    return [error.formatted for error in refused.value.errors]


async def test_audit_trail_shows_others_deeds_to_admins_only(world: World) -> None:
    """The grants on the machine, its enrolment and its agent's own events are not theirs."""
    assert await AuditEvent.filter(target_id=world.host.machine.id).count() >= 4
    actor = await world.actor(STRANGER)
    query = (
        "query Q($filter: AuditFilter) { auditEvents(first: 100, filter: $filter) { totalCount "
        "edges { node { id action targetId details { value } actor { __typename } } } } }"
    )
    for filter_ in (
        {},
        {"targetId": world.host.id},
        {"actorId": world.host.id},
        {"actorId": world.id("User")},
        {"action": "redeemEnrollment"},
        {"outcome": "SUCCEEDED"},
    ):
        body = await ask(world.plane, actor, query, {"filter": filter_})
        assert body["data"]["auditEvents"]["totalCount"] == 0, filter_
        _assert_nothing_of(world, body)


async def test_own_audit_event_names_no_machine_that_one_may_not_see(world: World) -> None:
    actor = await world.actor(STRANGER)
    await ask(
        world.plane,
        actor,
        "mutation M($id: ID!) { grantMachine(input: {machineId: $id}) { machine { id } } }",
        {"id": world.host.id},
    )
    body = await ask(
        world.plane,
        actor,
        "{ auditEvents { edges { node { action outcome targetType targetId "
        "details { key value } } } } }",
    )
    (edge,) = body["data"]["auditEvents"]["edges"]
    assert edge["node"]["action"] == "grantMachine"
    assert edge["node"]["outcome"] == Outcome.DENIED
    assert edge["node"]["targetId"] is None
    _assert_nothing_of(world, body)


async def test_no_change_of_it_is_told(world: World) -> None:
    """Two machines change; the one that they have a grant on is all that they hear of."""
    plane, user = world.plane, world.stranger
    actor = await as_user(user)
    theirs = await make_host(plane, "theirs")
    await theirs.grant(user_id=user.id)
    changes = (
        "subscription S($after: String) { machineChanged(after: $after) "
        "{ cursor kind machineId machine { id name } } }"
    )
    async with following(plane, actor, changes) as live:
        ready = await live.data()
        await disconnect(world.host.machine.id, world.host.epoch, last_seen_at=now_ms())
        await connect(world.host.machine.id, plane.replica_id, agent_version="2", boot_id="boot-2")
        await disconnect(theirs.machine.id, theirs.epoch, last_seen_at=now_ms())
        change = await live.data()
        assert change["machineChanged"]["machineId"] == theirs.id
    async with following(
        plane, actor, changes, {"after": ready["machineChanged"]["cursor"]}
    ) as again:
        assert await again.data() == change
    _assert_nothing_of(world, change)


async def test_fleet_pulse_counts_only_what_one_sees(world: World) -> None:
    pulse = "subscription { fleetChanged { machines { total } gpus { total power } } }"
    async with following(world.plane, await world.actor(STRANGER), pulse) as live:
        assert (await live.data())["fleetChanged"] == {
            "machines": {"total": 0},
            "gpus": {"total": 0, "power": None},
        }


async def test_one_grant_of_two_machines(world: World) -> None:
    """A list of ids with one that is not theirs is refused as a whole, and says not which."""
    theirs = await make_host(world.plane, "theirs")
    await theirs.grant(user_id=world.stranger.id)
    actor = await world.actor(STRANGER)
    watch = "subscription S($ids: [ID!]!) { machineMetrics(machineIds: $ids) { machineId } }"
    refusals = [
        await _refusal(world, actor, watch, {"ids": [theirs.id, id_]})
        for id_ in (world.host.id, encode_id("Machine", new_id()))
    ]
    assert refusals[0] == refusals[1]
    assert refusals[0][0]["extensions"] == {"code": "NOT_FOUND", "field": ["machineIds"]}
    body = await ask(
        world.plane,
        actor,
        "query Q($ids: [ID!]!) { nodes(ids: $ids) { id } }",
        {"ids": [world.host.id, theirs.id, *world.host.gpu_ids, *theirs.gpu_ids]},
    )
    assert body["data"]["nodes"] == [
        None,
        {"id": theirs.id},
        None,
        None,
        *({"id": gpu_id} for gpu_id in theirs.gpu_ids),
    ]


async def test_a_revoked_grant_ends_what_one_sees_at_once(world: World) -> None:
    actor = await world.actor(GRANTED)
    query = "query Q($id: ID!) { machine(id: $id) { id } machines { totalCount } }"
    seen = await ask(world.plane, actor, query, {"id": world.host.id})
    assert seen["data"] == {"machine": {"id": world.host.id}, "machines": {"totalCount": 1}}
    await revoke_machine_grant(
        SYSTEM, world.host.machine.id, user_id=actor.user_id, workspace_id=None
    )
    gone = await ask(world.plane, actor, query, {"id": world.host.id})
    assert gone["data"] == {"machine": None, "machines": {"totalCount": 0}}
