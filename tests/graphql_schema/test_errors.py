"""How whatever goes wrong is told: to whom, with which code, and what is kept back."""

import json
from typing import Any

import pytest
from structlog.testing import capture_logs

from remotegpu_core.actor import Actor, ActorKind
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import RemoteGPUError
from remotegpu_core.models import AuditEvent, Machine, Outcome
from remotegpu_graphql.context import Context
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import ErrorCode, RequestRefused, is_user_error
from remotegpu_graphql.ids import encode_id
from tests.graphql_schema.asking import ask, codes, following
from tests.graphql_schema.hosts import inventory, make_host
from tests.graphql_schema.people import PASSWORD, as_admin, as_user, make_user

ANONYMOUS = Actor(ActorKind.ANONYMOUS)
PLANTED = "planted-s3cret-value"


async def _break(machine_id: Any) -> None:
    """Leave a row that no code of ours writes: a specification that is none."""
    await Machine.filter(id=machine_id).update(host={"no_hostname": PLANTED})


async def test_surprise_is_masked_and_logged(plane: ControlPlane) -> None:
    host, whole = await make_host(plane), await make_host(plane)
    await _break(host.machine.id)
    query = "query Q($ids: [ID!]!) { nodes(ids: $ids) { id ... on Machine { specs { kernel } } } }"
    with capture_logs() as logs:
        body = await ask(plane, await as_admin(), query, {"ids": [host.id, whole.id]})
    (error,) = body["errors"]
    incident = error["extensions"]["incident"]
    assert error == {
        "message": f"Something went wrong on the server. Its log has it as incident {incident}.",
        "locations": [{"line": 1, "column": 64}],
        "path": ["nodes", 0, "specs"],
        "extensions": {"code": "INTERNAL", "incident": incident},
    }
    # The rest of the answer stands.
    assert body["data"]["nodes"] == [
        {"id": host.id, "specs": None},
        {"id": whole.id, "specs": {"kernel": "6.1.0-18-amd64"}},
    ]
    text = json.dumps(body)
    for kept_back in ("KeyError", "hostname", "Traceback", "remotegpu_graphql", PLANTED):
        assert kept_back not in text, kept_back
    (logged,) = [entry for entry in logs if entry["event"] == "graphql.internal_error"]
    assert logged["incident"] == incident
    assert logged["log_level"] == "error"
    assert logged["path"] == ["nodes", 0, "specs"]
    kind, raised, _ = logged["exc_info"]
    assert (kind, str(raised)) == (KeyError, "'hostname'")


async def test_every_incident_has_an_id_of_its_own(plane: ControlPlane) -> None:
    host, admin = await make_host(plane), await as_admin()
    await _break(host.machine.id)
    query = "query Q($id: ID!) { a: machine(id: $id) { specs { kernel } } b: machine(id: $id) { specs { kernel } } }"
    with capture_logs():
        bodies = [await ask(plane, admin, query, {"id": host.id}) for _ in range(2)]
    found = {error["extensions"]["incident"] for body in bodies for error in body["errors"]}
    assert len(found) == 4


async def test_null_goes_up_to_what_may_be_null(plane: ControlPlane) -> None:
    """A failed non-null field takes its object along, and the list that the object is in."""
    host, whole = await make_host(plane, "a"), await make_host(plane, "b")
    await Machine.filter(id=host.machine.id).update(
        host={**host.machine.host, "disks": [{"no": "name"}]}
    )
    query = "{ machines { totalCount edges { node { name specs { kernel disks { name } } } } } }"
    with capture_logs():
        body = await ask(plane, await as_admin(), query)
    assert codes(body) == ["INTERNAL"]
    nodes = [edge["node"] for edge in body["data"]["machines"]["edges"]]
    assert nodes[0] == {"name": "a", "specs": None}
    assert nodes[1]["specs"]["disks"] == [{"name": "nvme0n1"}]
    assert whole.id

    await Machine.filter(id=host.machine.id).update(
        host={**host.machine.host, "policy": {"commands": 5}}
    )
    with capture_logs():
        body = await ask(
            plane,
            await as_admin(),
            "{ machines { edges { node { policy { commands } } } } fleet { machines { total } } }",
        )
    assert body["data"] == {"machines": None, "fleet": {"machines": {"total": 2}}}


async def test_value_of_ours_that_does_not_fit_its_type_is_our_fault(plane: ControlPlane) -> None:
    """Not INVALID_INPUT: the caller cannot mend it, and the message would tell the value."""
    host = await make_host(plane)
    gpu = host.gpus[0]
    gpu.details = {**gpu.details, "serial": {"value": PLANTED}}
    await gpu.save()
    with capture_logs() as logs:
        body = await ask(
            plane,
            await as_admin(),
            "query Q($id: ID!) { gpu(id: $id) { serial uuid } }",
            {"id": host.gpu_ids[0]},
        )
    assert codes(body) == ["INTERNAL"]
    assert body["data"] == {"gpu": {"serial": None, "uuid": gpu.uuid}}
    assert PLANTED not in json.dumps(body)
    assert [entry["event"] for entry in logs] == ["graphql.internal_error"]


async def test_absurd_core_count_is_no_error(plane: ControlPlane) -> None:
    """The protocol lets a host claim more than an Int holds."""
    host = await make_host(plane)
    await Machine.filter(id=host.machine.id).update(
        host={**host.machine.host, "cpu_count": 2**53 - 1}
    )
    query = "query Q($id: ID!) { machine(id: $id) { specs { cpuCount kernel } } }"
    body = await ask(plane, await as_admin(), query, {"id": host.id})
    assert body["data"]["machine"]["specs"] == {"cpuCount": None, "kernel": "6.1.0-18-amd64"}
    assert "errors" not in body


async def test_surprise_in_a_mutation_is_masked(plane: ControlPlane) -> None:
    host, admin = await make_host(plane), await as_admin()
    await _break(host.machine.id)
    user = encode_id("User", (await make_user()).id)
    with capture_logs():
        body = await ask(
            plane,
            admin,
            "mutation M($m: ID!, $u: ID!) { grantMachine(input: {machineId: $m, userId: $u}) "
            "{ machine { specs { kernel } name } userErrors { code } } }",
            {"m": host.id, "u": user},
        )
    assert codes(body) == ["INTERNAL"]
    machine = {"specs": None, "name": host.machine.name}
    assert body["data"]["grantMachine"] == {"machine": machine, "userErrors": []}


async def test_surprise_in_a_subscription_is_masked(plane: ControlPlane) -> None:
    host, admin = await make_host(plane), await as_admin()
    source = "subscription { machineChanged { kind machine { specs { kernel } } } }"
    with capture_logs() as logs:
        async with following(plane, admin, source) as live:
            assert (await live.data())["machineChanged"]["kind"] == "READY"
            changed = inventory(host.machine.name, gpus=1)
            await host.report(changed)
            await _break(host.machine.id)
            body = await live.next()
    assert codes(body) == ["INTERNAL"]
    assert body["data"]["machineChanged"]["machine"] == {"specs": None}
    assert any(entry["event"] == "graphql.internal_error" for entry in logs)


async def test_source_that_raises_ends_the_subscription(plane: ControlPlane) -> None:
    """Whatever a stream raises is masked and logged too."""
    engine, admin = Engine(), await as_admin()
    operation = engine.prepare(
        "subscription { fleetChanged { machines { total } } }", None, signed_in=True
    )
    context = Context(plane, admin)
    responses = engine.follow(operation, {}, context)
    assert (await anext(responses)).data == {"fleetChanged": {"machines": {"total": 0}}}
    context._actor = None
    await make_host(plane)
    with capture_logs() as logs, pytest.raises(RequestRefused) as refused:
        await anext(responses)
    (error,) = refused.value.errors
    assert (error.extensions or {})["code"] == "INTERNAL"
    assert "viewer" not in error.message
    assert any(entry["event"] == "graphql.internal_error" for entry in logs)


# --- user errors and top-level errors


def _subclasses(cls: type[RemoteGPUError]) -> list[type[RemoteGPUError]]:
    return [cls, *(found for sub in cls.__subclasses__() for found in _subclasses(sub))]


def _made(cls: type[RemoteGPUError]) -> RemoteGPUError:
    """An error of a class, also of one that makes its message itself."""
    error = cls.__new__(cls)
    RemoteGPUError.__init__(error, "message")
    return error


def test_every_error_of_the_domain_is_told_in_one_way() -> None:
    told = {cls.code: is_user_error(_made(cls)) for cls in _subclasses(RemoteGPUError)}
    assert {code for code, as_user_error in told.items() if as_user_error} == {
        code.value for code in ErrorCode if code is not ErrorCode.FORBIDDEN
    }
    assert {code for code, as_user_error in told.items() if not as_user_error} == {
        *("INTERNAL", "UNAUTHENTICATED", "FORBIDDEN"),
        *("ENROLLMENT_REFUSED", "KEY_IN_USE", "CURSOR_EXPIRED", "UNAVAILABLE"),
        *("RATE_LIMITED", "OVERLOADED"),
    }


CREATE_USER = (
    "mutation M($input: CreateUserInput!) { createUser(input: $input) "
    "{ user { id } userErrors { field message code } } }"
)


USER_ERRORS: list[tuple[dict[str, str], list[str], str]] = [
    ({"username": "-x"}, ["username"], "INVALID_INPUT"),
    ({"username": ""}, ["username"], "INVALID_INPUT"),
    ({"username": "x" * 65}, ["username"], "INVALID_INPUT"),
    ({"username": "a\nb"}, ["username"], "INVALID_INPUT"),
    ({"password": "short"}, ["password"], "INVALID_INPUT"),
    ({"password": "x" * 300}, ["password"], "INVALID_INPUT"),
    ({"password": "aaaaaaaaaa"}, ["password"], "INVALID_INPUT"),
    ({"username": "admin"}, ["username"], "CONFLICT"),
    ({"username": "ADMIN"}, ["username"], "CONFLICT"),
]


async def test_what_the_caller_can_mend_is_a_user_error(plane: ControlPlane) -> None:
    admin = await as_admin()
    for given, field, code in USER_ERRORS:
        wish = {"username": "somebody", "password": PASSWORD, **given}
        body = await ask(plane, admin, CREATE_USER, {"input": wish})
        assert "errors" not in body
        payload = body["data"]["createUser"]
        assert payload["user"] is None
        (error,) = payload["userErrors"]
        assert (error["field"], error["code"]) == (field, code), given
        assert error["message"].endswith(".")
        assert wish["password"] not in error["message"]
        event = await AuditEvent.filter(action="createUser").order_by("-id").first()
        assert event is not None
        assert event.outcome is Outcome.FAILED
        assert event.details == {"code": code, "field": ".".join(field)}


async def test_scope_that_one_does_not_have_is_a_user_error(plane: ControlPlane) -> None:
    body = await ask(
        plane,
        await as_user(),
        'mutation { createApiToken(input: {name: "x", scopes: [ADMIN]}) '
        "{ token userErrors { field code } } }",
    )
    assert body["data"]["createApiToken"] == {
        "token": None,
        "userErrors": [{"field": ["scopes"], "code": "FORBIDDEN"}],
    }


FIELDS: list[tuple[str, list[str]]] = [
    ('createApiToken(input: {name: "", scopes: [READ]})', ["name"]),
    ('createApiToken(input: {name: "a\\tb", scopes: [READ]})', ["name"]),
    ('createApiToken(input: {name: "x", scopes: []})', ["scopes"]),
    (
        'createApiToken(input: {name: "x", scopes: [READ], expiresAt: "2001-01-01T00:00:00Z"})',
        ["expiresAt"],
    ),
    ('createWorkspace(input: {name: ""})', ["name"]),
    ('createEnrollment(input: {machineName: "a b"})', ["machineName"]),
    ("createEnrollment(input: {})", ["machineName"]),
    (
        'createEnrollment(input: {machineName: "x", labels: [{key: "a b", value: ""}]})',
        ["labels"],
    ),
    (
        (
            'createEnrollment(input: {machineName: "x", '
            'labels: [{key: "a", value: "1"}, {key: "a", value: "2"}]})'
        ),
        ["labels"],
    ),
]


async def test_field_of_a_user_error(plane: ControlPlane) -> None:
    admin = await as_admin()
    for mutation, field in FIELDS:
        name = mutation.partition("(")[0]
        source = f"mutation {{ {mutation} {{ userErrors {{ field code message }} }} }}"
        body = await ask(plane, admin, source)
        (error,) = body["data"][name]["userErrors"]
        assert (error["field"], error["code"]) == (field, "INVALID_INPUT"), mutation


async def test_neither_and_both_of_user_and_workspace(plane: ControlPlane) -> None:
    admin, host = await as_admin(), await make_host(plane)
    user = encode_id("User", (await make_user()).id)
    workspace = encode_id("Workspace", host.machine.id)
    for name in ("grantMachine", "revokeMachineGrant"):
        for given in ({}, {"userId": user, "workspaceId": workspace}):
            body = await ask(
                plane,
                admin,
                f"mutation M($input: {name[0].upper()}{name[1:]}Input!) {{ {name}(input: $input) "
                "{ userErrors { field code } } }",
                {"input": {"machineId": host.id, **given}},
            )
            assert body["data"][name]["userErrors"] == [
                {"field": ["userId"], "code": "INVALID_INPUT"}
            ]


async def test_what_the_caller_cannot_mend_is_top_level(plane: ControlPlane) -> None:
    query = "{ fleet { machines { total } } users { totalCount } }"
    body = await ask(plane, ANONYMOUS, query)
    assert body["data"] == {"fleet": None, "users": None}
    assert codes(body) == ["UNAUTHENTICATED", "UNAUTHENTICATED"]
    assert [error["path"] for error in body["errors"]] == [["fleet"], ["users"]]
    body = await ask(plane, await as_user(), query)
    # Partial data: what one may see is there.
    assert body["data"] == {"fleet": {"machines": {"total": 0}}, "users": None}
    assert codes(body) == ["FORBIDDEN"]
    assert body["errors"][0]["message"] == "Only an admin may do this."
