"""GET runs queries, HEAD does as GET does, and neither changes anything or trusts a cookie alone."""

import json

from starlette.routing import Route

from remotegpu_api.app import create_app
from remotegpu_api.cookies import SESSION as COOKIE
from tests.api.documents import CREATE_USER, LIVE, SIGN_IN, VIEWER
from tests.api.plane import ADMIN, ADMIN_PASSWORD, Server

GRAPHQL = "application/graphql-response+json"


async def test_a_query_runs_with_its_variables(server: Server) -> None:
    admin = await server.sign_in()
    response = await server.http.get(
        "/graphql",
        params={
            "query": "query One { __typename } query Page($n: Int!) { machines(first: $n) { totalCount } }",
            "operationName": "Page",
            "variables": json.dumps({"n": 5}),
            "extensions": "",
        },
        headers={"Accept": GRAPHQL, "Authorization": f"Bearer {admin}"},
    )
    assert response.status_code == 200
    assert response.headers["content-type"].startswith(GRAPHQL)
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.json()["data"] == {"machines": {"totalCount": 0}}


async def test_a_body_counts_where_the_url_says_nothing(server: Server) -> None:
    for url, answer in (
        ("/graphql", {"a": "Query"}),
        ("/graphql?query={b:__typename}", {"b": "Query"}),
    ):
        response = await server.http.request("GET", url, json={"query": "{ a: __typename }"})
        assert response.json()["data"] == answer
    mutation = {"query": "mutation { signOut { user { id } } }"}
    assert (await server.http.request("GET", "/graphql", json=mutation)).status_code == 405


async def test_parameters_of_another_shape_are_explained(server: Server) -> None:
    for query, hint in (
        ("", "query"),
        ("query=", "query"),
        ("query={a}&query={b}", "query came 2 times"),
        ("query={a}&variables={", "variables is not valid JSON"),
        ("query={a}&variables=[1]", "variables"),
        ("query={a}&extensions=5", "extensions"),
        ("query={a}&variables=%ff", "variables"),
    ):
        response = await server.http.get(f"/graphql?{query}")
        assert response.status_code == 400, query
        assert hint in response.json()["errors"][0]["message"]


async def test_mutations_and_subscriptions_are_sent_elsewhere(server: Server) -> None:
    admin = await server.sign_in()
    mutation = {
        "query": CREATE_USER,
        "operationName": "CreateUser",
        "variables": json.dumps({"input": {"username": "eve", "password": "eve-Passw0rd-1"}}),
    }
    live = {"query": LIVE, "operationName": "FleetPulse"}
    headers = {"Authorization": f"Bearer {admin}"}
    refused = await server.http.get("/graphql", params=mutation, headers=headers)
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert "POST" in refused.json()["errors"][0]["message"]
    assert (await server.http.head("/graphql", params=mutation, headers=headers)).status_code == 405
    watched = await server.http.get("/graphql", params=live, headers=headers)
    assert watched.status_code == 400
    users = await server.ask("{ users { totalCount } }", token=admin)
    assert users["users"]["totalCount"] == 1


async def test_head_of_every_path_is_its_get_without_a_body(server: Server) -> None:
    routes = [
        route.path
        for route in create_app(server.plane).routes
        if isinstance(route, Route) and "GET" in (route.methods or ())
    ]
    assert "/graphql" in routes
    for path in [*routes, "/static/style.css", "/graphql?query={__typename}"]:
        got = await server.http.get(path)
        headed = await server.http.head(path)
        assert headed.content == b"", path
        assert headed.status_code == got.status_code, path
        assert headed.headers.get("content-type") == got.headers.get("content-type"), path


async def test_head_runs_no_mutation_of_its_body(server: Server) -> None:
    response = await server.http.request(
        "HEAD",
        "/graphql",
        json={"query": SIGN_IN, "variables": {"username": ADMIN, "password": ADMIN_PASSWORD}},
    )
    assert (response.status_code, response.content) == (405, b"")
    admin = await server.sign_in()
    events = await server.ask(
        '{ auditEvents(filter: {action: "signIn"}) { totalCount } }', token=admin
    )
    assert events["auditEvents"]["totalCount"] == 1


async def test_a_browser_that_goes_there_gets_the_page_and_runs_nothing(server: Server) -> None:
    admin = await server.sign_in()
    headers = {"Accept": "text/html, */*;q=0.8", "Cookie": f"{COOKIE}={admin}"}
    shown = await server.http.get("/graphql", params={"query": VIEWER}, headers=headers)
    assert shown.headers["content-type"].startswith("text/html")
    assert '"data"' not in shown.text


async def test_a_cookie_counts_only_for_a_proved_page_of_ours(server: Server) -> None:
    admin = await server.sign_in()

    async def viewer(headers: dict[str, str]) -> tuple[object, str]:
        response = await server.http.get(
            "/graphql", params={"query": VIEWER}, headers={"Cookie": f"{COOKIE}={admin}", **headers}
        )
        assert response.status_code == 200
        body = response.json()
        return body["data"]["viewer"], str(body["extensions"].get("ignored", ""))

    for proof in (
        {"Sec-Fetch-Site": "same-origin"},
        {"GraphQL-Require-Preflight": "1"},
        {"Apollo-Require-Preflight": "true"},
        {"Origin": server.origin},
    ):
        known, ignored = await viewer(proof)
        assert known is not None, proof
        assert not ignored
    for lack in (
        {},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "GraphQL-Require-Preflight": "1"},
        {"Sec-Fetch-Site": "none"},
        {"GraphQL-Require-Preflight": ""},
    ):
        unknown, ignored = await viewer(lack)
        assert unknown is None, lack
        assert "GraphQL-Require-Preflight: 1" in ignored
    # A token is nothing that a browser adds by itself.
    known, _ = await viewer({"Sec-Fetch-Site": "cross-site", "Authorization": f"Bearer {admin}"})
    assert known is not None
