"""Requests that do not run, or that hold what is none of ours."""

import json
from typing import Any

import pytest

from remotegpu_core.actor import Actor, ActorKind
from remotegpu_core.clock import now_ms
from remotegpu_core.control_plane import ControlPlane
from remotegpu_graphql.engine import Engine
from tests.graphql_schema.asking import ask, codes
from tests.graphql_schema.people import PASSWORD, as_admin, as_user, make_user

ANONYMOUS = Actor(ActorKind.ANONYMOUS)
PLANTED = "planted-s3cret-value"


UNFIT: list[tuple[str, Any]] = [
    ("Int", "five"),
    ("Int", 1.5),
    ("Int", 2**31),
    ("Int", True),
    ("Int!", None),
    ("MachineFilter", {"presence": ["SLEEPING"]}),
    ("MachineFilter", {"unknown": 1}),
    ("MachineFilter", {"labels": [{"key": "a"}]}),
    ("MachineFilter", {"text": 5}),
    ("MachineFilter", 5),
    ("AuditFilter", {"since": "yesterday"}),
]


async def test_variables_that_do_not_fit(plane: ControlPlane) -> None:
    admin = await as_admin()
    uses = {
        "Int": "machines(first: $v)",
        "Int!": "machines(first: $v)",
        "MachineFilter": "machines(filter: $v)",
        "AuditFilter": "auditEvents(filter: $v)",
    }
    for declared, value in UNFIT:
        query = f"query Q($v: {declared}) {{ {uses[declared]} {{ totalCount }} }}"
        body = await ask(plane, admin, query, {"v": value})
        assert codes(body) == ["INVALID_INPUT"], (declared, value)
        assert "data" not in body
        assert "$v" in body["errors"][0]["message"]


async def test_variable_that_is_missing(plane: ControlPlane) -> None:
    body = await ask(plane, await as_admin(), "query Q($id: ID!) { node(id: $id) { id } }")
    assert codes(body) == ["INVALID_INPUT"]
    assert "data" not in body


async def test_variables_are_not_quoted(plane: ControlPlane) -> None:
    """Passwords come in variables, and clients log errors."""
    sign_in = "mutation M($input: SignInInput!) { signIn(input: $input) { token } }"
    for wrong in (
        {"username": "a", "password": PLANTED, "extra": 1},
        {"password": PLANTED},
        {"username": "a", "password": [PLANTED]},
        {"username": "a", "password": {"x": PLANTED}},
        PLANTED,
        [PLANTED],
    ):
        body = await ask(plane, ANONYMOUS, sign_in, {"input": wrong})
        assert codes(body)[0] == "INVALID_INPUT"
        assert PLANTED not in json.dumps(body), wrong


async def test_too_many_variables_that_do_not_fit(plane: ControlPlane) -> None:
    query = "query Q($ids: [ID!]!) { nodes(ids: $ids) { id } }"
    body = await ask(plane, await as_admin(), query, {"ids": [1.5] * 500})
    assert set(codes(body)) == {"INVALID_INPUT"}
    assert len(body["errors"]) <= 60


async def test_null_where_a_default_allowed_it(plane: ControlPlane) -> None:
    query = "query Q($ids: [ID!] = []) { nodes(ids: $ids) { id } fleet { machines { total } } }"
    body = await ask(plane, await as_admin(), query, {"ids": None})
    assert codes(body) == ["INVALID_INPUT"]
    assert body["data"] == {"nodes": None, "fleet": {"machines": {"total": 0}}}


CANNOT_RUN: list[tuple[str, str | None, str]] = [
    ("{ fleet ", None, "GRAPHQL_PARSE_FAILED"),
    ("{ nothing }", None, "GRAPHQL_VALIDATION_FAILED"),
    ("{ fleet }", None, "GRAPHQL_VALIDATION_FAILED"),
    ("query A { fleet { __typename } }", "B", "GRAPHQL_VALIDATION_FAILED"),
    (
        "query A { fleet { __typename } } query B { fleet { __typename } }",
        None,
        "GRAPHQL_VALIDATION_FAILED",
    ),
    (
        "query A { fleet { __typename } } { fleet { __typename } }",
        None,
        "GRAPHQL_VALIDATION_FAILED",
    ),
    ("mutation { signIn { token } }", None, "GRAPHQL_VALIDATION_FAILED"),
    (
        '{ machines(filter: {text: "a\\u0000"}) { totalCount } }',
        None,
        "GRAPHQL_VALIDATION_FAILED",
    ),
    ("{ machines(first: 99999999999) { totalCount } }", None, "GRAPHQL_VALIDATION_FAILED"),
    ('{ auditEvents(filter: {since: "x"}) { totalCount } }', None, "GRAPHQL_VALIDATION_FAILED"),
]


async def test_document_that_cannot_run(plane: ControlPlane) -> None:
    admin = await as_admin()
    for source, operation, code in CANNOT_RUN:
        body = await ask(plane, admin, source, operation=operation)
        assert codes(body)[0] == code, source
        assert "data" not in body


async def test_operation_is_chosen_by_name(plane: ControlPlane) -> None:
    source = "query A { fleet { machines { total } } } query B { viewer { user { role } } }"
    admin = await as_admin()
    body = await ask(plane, admin, source, operation="B")
    assert body["data"] == {"viewer": {"user": {"role": "ADMIN"}}}
    body = await ask(plane, admin, source, operation="C")
    assert body["errors"][0]["message"] == "There is no operation 'C' in the document."
    body = await ask(plane, admin, source)
    assert "operationName" in body["errors"][0]["message"]


async def test_same_document_twice(plane: ControlPlane) -> None:
    """The second time it comes out of the cache, refused or not."""
    engine, admin = Engine(), await as_admin()
    for source in ("{ fleet { machines { total } } }", "{ nothing }", _too_deep()):
        first = await ask(plane, admin, source, engine=engine)
        second = await ask(plane, admin, source, engine=engine)
        for body in (first, second):
            body.get("extensions", {}).pop("remaining", None)
        assert second == first


def _too_deep() -> str:
    return 'query { gpu(id: "x") {' + "machine { gpus {" * 8 + "id" + "}}" * 8 + "} }"


# --- texts that no database keeps


@pytest.mark.parametrize("text", ["a\x00b", "\udc00x"])
async def test_text_that_cannot_be_stored(scaled_out: ControlPlane, text: str) -> None:
    plane, admin = scaled_out, await as_admin()
    asked: list[tuple[str, dict[str, Any]]] = [
        ("query Q($v: String) { machines(filter: {text: $v}) { totalCount } }", {"v": text}),
        (
            "query Q($v: MachineFilter) { machines(filter: $v) { totalCount } }",
            {"v": {"text": text}},
        ),
        ("query Q($v: String) { machines(after: $v) { totalCount } }", {"v": text}),
        (
            "mutation M($v: SignInInput!) { signIn(input: $v) { token } }",
            {"v": {"username": text, "password": text}},
        ),
        ("query Q($v: ID!) { node(id: $v) { id } }", {"v": text}),
        (
            "query Q($v: [LabelInput!]) { machines(filter: {labels: $v}) { totalCount } }",
            {"v": [{"key": "a", "value": text}]},
        ),
    ]
    for source, variables in asked:
        body = await ask(plane, admin, source, variables)
        assert codes(body) == ["INVALID_INPUT"], source
        assert "data" not in body


async def test_any_other_text_is_only_text(any_plane: ControlPlane) -> None:
    admin = await as_admin()
    query = "query Q($v: String) { machines(filter: {text: $v, gpuModel: $v}) { totalCount } }"
    sign_in = (
        "mutation M($v: String!) { signIn(input: {username: $v, password: $v}) "
        "{ userErrors { code } } }"
    )
    for text in ("\U0001f600", "\u202e", "é", "\t", "\x1f", "\uffff"):
        body = await ask(any_plane, admin, query, {"v": text})
        assert body["data"] == {"machines": {"totalCount": 0}}, text
        body = await ask(any_plane, ANONYMOUS, sign_in, {"v": text})
        assert body["data"] == {"signIn": {"userErrors": [{"code": "INVALID_CREDENTIALS"}]}}


async def test_several_mutations_run_in_their_order(plane: ControlPlane) -> None:
    """Each has its own errors; one that failed does not stop the next."""
    body = await ask(
        plane,
        await as_user(),
        'mutation { a: createWorkspace(input: {name: "a"}) { workspace { id } } '
        'b: createApiToken(input: {name: "b", scopes: [READ]}) { apiToken { name createdAt } } '
        "c: signOut { user { username } userErrors { code } } }",
    )
    assert codes(body) == ["FORBIDDEN"]
    assert body["errors"][0]["path"] == ["a"]
    assert body["data"]["a"] is None
    assert body["data"]["b"]["apiToken"]["name"] == "b"
    assert body["data"]["c"]["userErrors"] == []
    assert now_ms() > 0


async def test_whoever_signed_out_is_nobody(plane: ControlPlane) -> None:
    """In what follows in the same document too."""
    body = await ask(
        plane,
        await as_user(),
        'mutation { signOut { user { username } } createApiToken(input: {name: "b", scopes: [READ]}) '
        "{ token } }",
    )
    assert body["data"]["signOut"]["user"] is not None
    assert codes(body) == ["UNAUTHENTICATED"]
    assert body["data"]["createApiToken"] is None


async def test_whoever_signed_in_is_somebody(plane: ControlPlane) -> None:
    user = await make_user()
    body = await ask(
        plane,
        ANONYMOUS,
        "mutation M($u: String!, $p: String!) { signIn(input: {username: $u, password: $p}) "
        "{ viewer { user { username } apiTokens { totalCount } } } }",
        {"u": user.username, "p": PASSWORD},
    )
    assert body["data"]["signIn"]["viewer"] == {
        "user": {"username": user.username},
        "apiTokens": {"totalCount": 0},
    }


async def test_password_rules_name_the_field_that_was_given(plane: ControlPlane) -> None:
    body = await ask(
        plane,
        await as_user(),
        "mutation M($c: String!, $n: String!) { changePassword(input: {currentPassword: $c, "
        "newPassword: $n}) { userErrors { field code } } }",
        {"c": PASSWORD, "n": "short"},
    )
    assert body["data"]["changePassword"]["userErrors"] == [
        {"field": ["newPassword"], "code": "INVALID_INPUT"}
    ]
    body = await ask(
        plane,
        await as_user(),
        "mutation M($c: String!, $n: String!) { changePassword(input: {currentPassword: $c, "
        "newPassword: $n}) { userErrors { field code } } }",
        {"c": "wrong-Passw0rd", "n": "another-0ne"},
    )
    assert body["data"]["changePassword"]["userErrors"] == [
        {"field": ["currentPassword"], "code": "INVALID_CREDENTIALS"}
    ]
