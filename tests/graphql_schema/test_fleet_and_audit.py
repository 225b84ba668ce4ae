"""The fleet in numbers, and what the audit trail can be asked."""

from typing import Any

from remotegpu_core.actor import SYSTEM, Actor, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.models import AuditEvent, Gpu, Machine, Outcome
from remotegpu_core.services import audit
from remotegpu_core.services.presence import disconnect
from remotegpu_core.states import Health, Lifecycle, Presence
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.scalars import format_time
from remotegpu_protocol.values import MAX_SAFE_INTEGER
from tests.graphql_schema.asking import data_of
from tests.graphql_schema.hosts import GIB, make_host
from tests.graphql_schema.people import actor_of, api_token, as_admin, as_user, make_user

FLEET = (
    "{ fleet { machines { total online unreachable lost available allocated quarantined } "
    "gpus { total available allocated unhealthy utilization memoryUsed memoryTotal power } } }"
)


async def test_empty_fleet(plane: ControlPlane) -> None:
    data = await data_of(plane, await as_admin(), FLEET)
    machines, gpus = data["fleet"]["machines"], data["fleet"]["gpus"]
    assert set(machines.values()) == {0}
    measured = {"utilization", "memoryUsed", "memoryTotal", "power"}
    assert {gpus[name] for name in measured} == {None}
    assert {gpus[name] for name in gpus.keys() - measured} == {0}


async def test_every_number(any_plane: ControlPlane) -> None:
    plane, user = any_plane, await make_user()
    online, quarantined, away, lost = [await make_host(plane, gpus=2) for _ in range(4)]
    await Machine.filter(id=quarantined.machine.id).update(lifecycle=Lifecycle.QUARANTINED)
    await Gpu.filter(id=online.gpus[1].id).update(health=Health.UNHEALTHY)
    for host in (away, lost):
        await host.publish(utilization=99.0)
        await disconnect(host.machine.id, host.epoch, last_seen_at=now_ms())
    await Machine.filter(id=lost.machine.id).update(presence=Presence.LOST)
    await online.publish()
    # One GPU that reports nothing: means are over those that do.
    await quarantined.publish(utilization=None, power=None, memory_used=None)
    data = await data_of(plane, await as_admin(), FLEET)
    assert data["fleet"] == {
        "machines": {
            "total": 4,
            "online": 2,
            "unreachable": 1,
            "lost": 1,
            "available": 1,
            "allocated": 0,
            "quarantined": 1,
        },
        "gpus": {
            "total": 8,
            "available": 1,
            "allocated": 0,
            "unhealthy": 1,
            # Of the machine that is silent nothing is known.
            "utilization": 50.5,
            "memoryUsed": 80 * GIB,
            "memoryTotal": 320 * GIB,
            "power": 701.0,
        },
    }
    for host in (online, away):
        await host.grant(user_id=user.id)
    data = await data_of(plane, await as_user(user), FLEET)
    assert data["fleet"]["machines"]["total"] == 2
    assert data["fleet"]["gpus"]["total"] == 4
    assert data["fleet"]["gpus"]["memoryTotal"] == 160 * GIB


async def test_sums_are_clamped(plane: ControlPlane) -> None:
    """A sum beyond what JSON's readers keep exact is cut to the largest that they do."""
    host = await make_host(plane, gpus=2)
    await host.publish(memory_used=MAX_SAFE_INTEGER, memory_total=MAX_SAFE_INTEGER)
    gpus = (await data_of(plane, await as_admin(), FLEET))["fleet"]["gpus"]
    assert gpus["memoryUsed"] == gpus["memoryTotal"] == MAX_SAFE_INTEGER


# --- the audit trail


EVENTS = (
    "query Q($filter: AuditFilter, $first: Int, $after: String, $last: Int, $before: String) { "
    "auditEvents(filter: $filter, first: $first, after: $after, last: $last, before: $before) "
    "{ totalCount pageInfo { hasNextPage endCursor startCursor hasPreviousPage } "
    "edges { node { id action actorKind outcome at } } } }"
)


async def _actions(plane: ControlPlane, actor: Actor, filter_: dict[str, Any]) -> list[str]:
    data = await data_of(plane, actor, EVENTS, {"filter": filter_, "first": 100})
    found = [edge["node"]["action"] for edge in data["auditEvents"]["edges"]]
    assert data["auditEvents"]["totalCount"] == len(found)
    return found


async def test_audit_filters(any_plane: ControlPlane) -> None:
    plane, user = any_plane, await make_user()
    admin, session = await as_admin(), await as_user(user)
    secret, token = await api_token(user, Scope.READ)
    program = await actor_of(secret)
    began = now_ms()
    await audit.record(session, "one", target=("User", user.id))
    await audit.record(program, "two", outcome=Outcome.DENIED)
    await audit.record(SYSTEM, "three", target=("User", user.id), outcome=Outcome.FAILED)
    await audit.record(admin, "two", target=("ApiToken", token.id))
    user_id, token_id = encode_id("User", user.id), encode_id("ApiToken", token.id)
    ours = {"since": format_time(began)}
    assert await _actions(plane, admin, ours) == ["two", "three", "two", "one"]
    # A user's are those of their tokens too.
    assert await _actions(plane, admin, {"actorId": user_id}) == ["two", "one"]
    assert await _actions(plane, admin, {"actorId": token_id}) == ["two"]
    assert await _actions(plane, admin, {"action": "two"}) == ["two", "two"]
    assert await _actions(plane, admin, {"action": "tw"}) == []
    assert await _actions(plane, admin, {"action": "%"}) == []
    assert await _actions(plane, admin, {"targetId": user_id}) == ["three", "one"]
    assert await _actions(plane, admin, {"targetId": token_id}) == ["two"]
    assert await _actions(plane, admin, {**ours, "outcome": "DENIED"}) == ["two"]
    assert await _actions(plane, admin, {**ours, "outcome": "FAILED"}) == ["three"]
    assert await _actions(plane, admin, {**ours, "outcome": "SUCCEEDED"}) == ["two", "one"]
    assert await _actions(plane, admin, {"actorId": user_id, "outcome": "DENIED"}) == ["two"]
    assert await _actions(plane, admin, {"actorId": user_id, "targetId": token_id}) == []
    assert "one" not in await _actions(plane, admin, {"until": format_time(began)})
    assert await _actions(plane, admin, {"since": format_time(now_ms() + 60_000)}) == []
    # Theirs, by whatever credential.
    assert await _actions(plane, session, {}) == ["two", "one"]
    assert await _actions(plane, program, {}) == ["two", "one"]
    assert await _actions(plane, session, {"targetId": user_id}) == ["one"]


async def test_since_includes_and_until_does_not(any_plane: ControlPlane) -> None:
    admin = await as_admin()
    await audit.record(admin, "exact")
    await AuditEvent.filter(action="exact").update(at=1_750_000_000_123)
    moment = "2025-06-15T15:06:40.123Z"
    earlier, later = "2025-06-15T15:06:40.122Z", "2025-06-15T17:06:40.124+02:00"
    for since, until, found in (
        (moment, None, True),
        (later, None, False),
        (None, moment, False),
        (None, later, True),
        (earlier, moment, False),
        (moment, later, True),
        ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999-12:00", True),
    ):
        filter_ = {"action": "exact", "since": since, "until": until}
        assert bool(await _actions(any_plane, admin, filter_)) is found, filter_


async def test_audit_pages(plane: ControlPlane) -> None:
    admin = await as_admin()
    assert admin.id is not None
    for number in range(7):
        await audit.record(admin, f"step{number}")
    whole = [f"step{number}" for number in reversed(range(7))]
    found: list[str] = []
    after = None
    while True:
        variables = {"filter": {"actorId": encode_id("User", admin.id)}, "first": 3, "after": after}
        events = (await data_of(plane, admin, EVENTS, variables))["auditEvents"]
        found += [edge["node"]["action"] for edge in events["edges"]]
        after = events["pageInfo"]["endCursor"]
        if not events["pageInfo"]["hasNextPage"]:
            break
    assert found == whole
    events = (await data_of(plane, admin, EVENTS, {"last": 2}))["auditEvents"]
    assert events["pageInfo"]["hasNextPage"] is False
    assert events["pageInfo"]["hasPreviousPage"] is True


async def test_actors_that_are_gone_are_null(plane: ControlPlane) -> None:
    admin, user = await as_admin(), await make_user()
    await audit.record(await as_user(user), "parting")
    await user.delete()
    data = await data_of(
        plane,
        admin,
        '{ auditEvents(filter: {action: "parting"}) '
        "{ edges { node { actorKind actor { __typename } } } } }",
    )
    assert data["auditEvents"]["edges"] == [{"node": {"actorKind": "USER", "actor": None}}]
