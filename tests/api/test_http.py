"""The graph's endpoint, as the GraphQL-over-HTTP specification has it."""

import gzip
import json

from remotegpu_api.web.graphql_endpoint import MAX_BODY
from tests.api.documents import LIVE, VIEWER
from tests.api.plane import Server

JSON = "application/json"
GRAPHQL = "application/graphql-response+json"


async def test_a_query_is_answered_in_the_media_type_asked_for(server: Server) -> None:
    for accept, answered in (
        (None, JSON),
        ("*/*", JSON),
        (JSON, JSON),
        (GRAPHQL, GRAPHQL),
        (f"{GRAPHQL}; charset=utf-8, {JSON}; q=0.9", GRAPHQL),
        (f"{GRAPHQL};q=0.5, {JSON}", JSON),
        (f"{GRAPHQL};q=0, */*", JSON),
        (f"{JSON};q=0, application/*", GRAPHQL),
    ):
        headers = {} if accept is None else {"Accept": accept}
        response = await server.post("{ __typename }", headers=headers)
        assert response.status_code == 200
        assert response.headers["content-type"] == f"{answered}; charset=utf-8", accept
        assert response.headers["cache-control"] == "no-store"
        assert "server" not in response.headers
        assert response.json()["data"] == {"__typename": "Query"}


async def test_who_takes_no_answer_is_told_what_there_is(server: Server) -> None:
    for accept in ("text/event-stream", f"{JSON};q=0, {GRAPHQL};q=0.0", "*/*;q=0"):
        response = await server.post("{ __typename }", headers={"Accept": accept})
        assert response.status_code == 406, accept
        assert GRAPHQL in response.json()["errors"][0]["message"]


async def test_what_cannot_run_has_the_status_of_its_media_type(server: Server) -> None:
    for query, code in (
        ("{ viewer {", "GRAPHQL_PARSE_FAILED"),
        ("{ noSuchField }", "GRAPHQL_VALIDATION_FAILED"),
    ):
        plain = await server.post(query, headers={"Accept": JSON})
        typed = await server.post(query, headers={"Accept": GRAPHQL})
        assert (plain.status_code, typed.status_code) == (200, 400)
        for response in (plain, typed):
            body = response.json()
            assert "data" not in body
            assert body["errors"][0]["extensions"]["code"] == code


async def test_variables_that_do_not_fit_are_a_refusal(server: Server) -> None:
    admin = await server.sign_in()
    response = await server.http.post(
        "/graphql",
        json={"query": "query($n: Int) { machines(first: $n) { totalCount } }",
              "variables": {"n": "three"}},
        headers={"Accept": GRAPHQL, "Authorization": f"Bearer {admin}"},
    )  # fmt: skip
    assert response.status_code == 400
    body = response.json()
    assert "data" not in body
    assert body["errors"][0]["extensions"]["code"] == "INVALID_INPUT"


async def test_a_field_that_fails_is_a_result(server: Server) -> None:
    response = await server.post(VIEWER, headers={"Accept": GRAPHQL})
    assert response.status_code == 200
    body = response.json()
    assert body["data"] == {"viewer": None}
    assert body["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


async def test_a_body_may_have_256_kib_and_no_byte_more(server: Server) -> None:
    bare = json.dumps({"query": "{ __typename }"}).encode()
    fits = bare + b" " * (MAX_BODY - len(bare))
    sent = {"Content-Type": JSON}
    assert (await server.http.post("/graphql", content=fits, headers=sent)).status_code == 200
    response = await server.http.post("/graphql", content=fits + b" ", headers=sent)
    assert response.status_code == 413
    assert response.json()["errors"][0]["extensions"]["code"] == "LIMIT_EXCEEDED"

    async def chunks() -> object:
        yield fits
        yield b" "

    streamed = await server.http.post("/graphql", content=chunks(), headers=sent)  # type: ignore[arg-type]  # an asynchronous generator of bytes
    assert streamed.status_code == 413


SHAPES = [
    (b"", "JSON"),
    (b"{", "JSON"),
    (b"\xff\xfe{}", "JSON"),
    (b"[" * 100_000, "JSON"),
    (b'{"query": ' + b"9" * 5_000 + b"}", "too many digits"),
    (b'[{"query": "{ __typename }"}]', "Batches"),
    (b"[]", "Batches"),
    (b"5", "object"),
    (b"null", "object"),
    (b"{}", "query"),
    (b'{"query": 5}', "query"),
    (b'{"query": ["{ __typename }"]}', "query"),
    (b'{"query": ""}', "query"),
    (b'{"query": "{ __typename }", "variables": [1]}', "variables"),
    (b'{"query": "{ __typename }", "variables": "{}"}', "variables"),
    (b'{"query": "{ __typename }", "operationName": 1}', "operationName"),
    (b'{"query": "{ __typename }", "extensions": []}', "extensions"),
    (b'{"extensions": {"persistedQuery": []}}', "sha256Hash"),
    (b'{"extensions": {"persistedQuery": {"version": 2, "sha256Hash": "00"}}}', "sha256Hash"),
]


async def test_a_body_of_another_shape_is_explained(server: Server) -> None:
    for body, hint in SHAPES:
        response = await server.http.post("/graphql", content=body, headers={"Content-Type": JSON})
        assert response.status_code == 400, body
        error = response.json()["errors"][0]
        assert hint in error["message"]
        assert error["extensions"]["code"] == "BAD_REQUEST"
        assert "data" not in response.json()


async def test_only_json_is_taken(server: Server) -> None:
    # What a form of another site could send without a preflight is not even parsed.
    for content_type in [
        "",
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "application/graphql",
        "text/plain; application/json",
    ]:
        response = await server.http.post(
            "/graphql",
            content=b'{"query": "{ __typename }"}',
            headers={"Content-Type": content_type},
        )
        assert response.status_code == 415, content_type
        assert "application/json" in response.json()["errors"][0]["message"]


async def test_utf_8_is_the_one_encoding(server: Server) -> None:
    body = b'{"query": "{ __typename }"}'
    for charset, status in (
        ("utf-8", 200),
        ('"UTF-8"', 200),
        ("us-ascii", 200),
        ("iso-8859-1", 415),
        ("utf-16", 415),
    ):
        response = await server.http.post(
            "/graphql",
            content=body,
            headers={"Content-Type": f"Application/JSON ; charset={charset}"},
        )
        assert response.status_code == status, charset
        assert status == 200 or "UTF-8" in response.json()["errors"][0]["message"]


async def test_a_compressed_body_is_told_to_come_as_it_is(server: Server) -> None:
    packed = gzip.compress(b'{"query": "{ __typename }"}')
    for path in ("/graphql", "/sign-in"):
        response = await server.http.post(
            path, content=packed, headers={"Content-Type": JSON, "Content-Encoding": "gzip"}
        )
        assert "uncompressed" in response.text
        assert path == "/sign-in" or response.status_code == 415
        assert path == "/sign-in" or response.headers["accept-encoding"] == "identity"
    plain = await server.http.post(
        "/graphql",
        content=gzip.decompress(packed),
        headers={"Content-Type": JSON, "Content-Encoding": "identity"},
    )
    assert plain.status_code == 200


async def test_other_methods_are_not_taken(server: Server) -> None:
    for method in ("PUT", "DELETE", "PATCH"):
        assert (await server.http.request(method, "/graphql")).status_code == 405
    options = await server.http.options("/graphql")
    assert (options.status_code, options.headers["allow"]) == (204, "GET, HEAD, OPTIONS, POST")


async def test_subscriptions_are_told_to_use_a_websocket(server: Server) -> None:
    admin = await server.sign_in()
    for accept in (JSON, GRAPHQL):
        response = await server.post(
            LIVE, token=admin, operation="FleetPulse", headers={"Accept": accept}
        )
        assert response.status_code == 400
        assert "graphql-transport-ws" in response.json()["errors"][0]["message"]


async def test_one_of_several_operations_is_named(server: Server) -> None:
    document = "query A { a: __typename } query B { b: __typename }"
    assert (await server.ask(document, operation="B")) == {"b": "Query"}
    unnamed = (await server.post(document)).json()
    assert "operationName" in unnamed["errors"][0]["message"]
    unknown = (await server.post(document, operation="C")).json()
    assert "'C'" in unknown["errors"][0]["message"]


async def test_the_cost_is_reported(server: Server) -> None:
    admin = await server.sign_in()
    response = await server.post(
        "{ machines(first: 10) { edges { node { gpus { uuid } } } } }", token=admin
    )
    assert response.json()["extensions"]["cost"] == 10 + 10 * 8


async def test_health(server: Server) -> None:
    response = await server.http.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"database": "ok", "bus": "ok"}
