"""Every root field and every type of node, for every kind of caller, on both databases."""

from typing import Any

import pytest
from graphql import GraphQLInterfaceType, GraphQLObjectType

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import Unauthenticated
from remotegpu_core.models import AuditEvent, Outcome
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import RequestRefused
from tests.graphql_schema.asking import ask, codes, following
from tests.graphql_schema.matrix import (
    CONFLICT,
    NODES,
    NOTHING,
    OK,
    ROOT_FIELDS,
    UNAUTHENTICATED,
    Entry,
)
from tests.graphql_schema.world import CALLERS, REVOKED, World, dump, make_world

SCHEMA = Engine().schema


def test_the_matrix_has_every_root_field() -> None:
    fields = {
        f"{root}.{name}"
        for root in ("Query", "Mutation", "Subscription")
        if isinstance(type_ := SCHEMA.type_map[root], GraphQLObjectType)
        for name in type_.fields
    }
    assert set(ROOT_FIELDS) == fields


def test_the_matrix_has_every_type_of_node() -> None:
    node = SCHEMA.type_map["Node"]
    assert isinstance(node, GraphQLInterfaceType)
    assert set(NODES) == {type_.name for type_ in SCHEMA.get_possible_types(node)}


async def _outcome(world: World, caller: str, name: str, entry: Entry) -> str:
    try:
        actor = await world.actor(caller)
    except Unauthenticated as error:
        return error.code
    field = name.rpartition(".")[2]
    variables = entry.variables(world, caller)
    if name.startswith("Subscription."):
        async with following(world.plane, actor, entry.document, variables) as live:
            try:
                body = await live.next()
            except RequestRefused as refused:
                return str((refused.errors[0].extensions or {})["code"])
    else:
        body = await ask(world.plane, actor, entry.document, variables)
    return _told(world, body, field, entry)


def _told(world: World, body: dict[str, Any], field: str, entry: Entry) -> str:
    data = body["data"] and body["data"][field]
    if "errors" in body:
        assert data is None, "an error and an object"
        (code,) = codes(body)
        return code
    if isinstance(data, dict) and data.get("userErrors"):
        assert not entry.shows(world, data), "a user error and an object"
        (error,) = data["userErrors"]
        return str(error["code"])
    return OK if data is not None and entry.shows(world, data) else NOTHING


READING = [name for name in ROOT_FIELDS if not name.startswith("Mutation.")]
MUTATIONS = [name for name in ROOT_FIELDS if name.startswith("Mutation.")]
EVERYTHING_ELSE = frozenset({"audit_event"})


async def test_queries_and_subscriptions(any_plane: ControlPlane) -> None:
    world = await make_world(any_plane)
    for name in READING:
        entry = ROOT_FIELDS[name]
        found = {caller: await _outcome(world, caller, name, entry) for caller in CALLERS}
        assert found == dict(entry.outcomes), name


@pytest.mark.parametrize("name", MUTATIONS)
async def test_mutation(any_plane: ControlPlane, name: str) -> None:
    """Who is refused changes nothing, and it is written down; the others get what they asked."""
    entry, world = ROOT_FIELDS[name], await make_world(any_plane)
    refused = [caller for caller in CALLERS if entry.outcomes[caller] != OK]
    assert REVOKED in refused, "somebody may not"
    for caller in refused:
        try:
            actor = await world.actor(caller)
        except Unauthenticated:
            # The transport lets nobody with such a token through.
            assert entry.outcomes[caller] == UNAUTHENTICATED, caller
            continue
        before, events = await dump(without=EVERYTHING_ELSE), await AuditEvent.all()
        assert await _outcome(world, caller, name, entry) == entry.outcomes[caller], caller
        assert await dump(without=EVERYTHING_ELSE) == before, caller
        await any_plane.refusals.flush()
        known = {event.id for event in events}
        (event,) = [e for e in await AuditEvent.all() if e.id not in known]
        wanted = Outcome.FAILED if entry.outcomes[caller] == CONFLICT else Outcome.DENIED
        assert (event.action, event.outcome) == (name.partition(".")[2], wanted), caller
        assert (event.actor_kind, event.actor_id) == (actor.kind, actor.id), caller
        assert event.user_id == actor.user_id, caller
        assert event.source_address == actor.source_address, caller
        assert event.details["code"] == entry.outcomes[caller], caller
    for caller in CALLERS:
        if caller not in refused:
            assert await _outcome(world, caller, name, entry) == OK, caller


async def test_nodes(any_plane: ControlPlane) -> None:
    world = await make_world(any_plane)
    query = "query Q($id: ID!) { node(id: $id) { __typename id } nodes(ids: [$id]) { id } }"
    for type_name, outcomes in NODES.items():
        id_ = world.id(type_name)
        for caller, outcome in outcomes.items():
            try:
                actor = await world.actor(caller)
            except Unauthenticated:
                assert outcome == UNAUTHENTICATED, caller
                continue
            body = await ask(world.plane, actor, query, {"id": id_})
            match outcome:
                case "OK":
                    shown = {"__typename": type_name, "id": id_}
                    assert body["data"] == {"node": shown, "nodes": [{"id": id_}]}, caller
                case "NOTHING":
                    assert body["data"] == {"node": None, "nodes": [None]}, caller
                    assert "errors" not in body, caller
                case _:
                    assert body["data"] == {"node": None, "nodes": None}, caller
                    assert codes(body) == [outcome, outcome], caller


async def test_the_dump_notices_a_change(any_plane: ControlPlane) -> None:
    world = await make_world(any_plane)
    before = await dump()
    assert before == await dump()
    world.member.username = "changed"
    await world.member.save()
    after = await dump()
    assert [table for table in before if before[table] != after[table]] == ["user_account"]
