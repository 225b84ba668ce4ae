"""Signing in and out, over the graph and with a browser; contract documents 01 to 04."""

from pathlib import Path

import httpx

from remotegpu_api.cookies import DEVICE
from remotegpu_api.cookies import SESSION as COOKIE
from remotegpu_core.models import AuditEvent
from remotegpu_core.services.lockout import ACCOUNT_LIMIT
from tests.api.documents import (
    AUDIT,
    CREATE_USER,
    ENROLL,
    SIGN_IN,
    USERS_AND_TOKENS,
    VIEWER,
    only,
    operations,
)
from tests.api.host import Host, enrolled
from tests.api.plane import ADMIN, ADMIN_PASSWORD, Backend, Server, serving
from tests.api.viewer import viewing

SIGN_IN_ON_DEVICE = (
    "mutation($input: SignInInput!) { signIn(input: $input) { deviceToken userErrors { code } } }"
)

CREDENTIALS = {"username": ADMIN, "password": ADMIN_PASSWORD}


async def test_the_documents_run_word_for_word(any_server: Server) -> None:
    server = any_server
    signed_in = (await server.ask(SIGN_IN, CREDENTIALS))["signIn"]
    assert signed_in["userErrors"] == []
    assert signed_in["viewer"]["user"]["username"] == ADMIN
    assert signed_in["viewer"]["user"]["role"] == "ADMIN"
    assert signed_in["expiresAt"].endswith("Z")
    admin = signed_in["token"]

    viewer = (await server.ask(VIEWER, token=admin))["viewer"]
    assert viewer == signed_in["viewer"]

    new_user = {"username": "ada", "password": "mallory-Passw0rd-1", "role": "USER"}
    created = await server.ask(
        CREATE_USER, {"input": new_user}, token=admin, operation="CreateUser"
    )
    assert created["createUser"]["userErrors"] == []
    ada_id = created["createUser"]["user"]["id"]
    assert created["createUser"]["user"] == {"id": ada_id, "username": "ada", "role": "USER"}
    ada = await server.sign_in("ada", "mallory-Passw0rd-1")

    made = await server.ask(
        USERS_AND_TOKENS,
        {"input": {"name": "grafana", "scopes": ["READ"]}},
        token=ada,
        operation="CreateApiToken",
    )
    api_token = made["createApiToken"]["apiToken"]
    assert made["createApiToken"]["userErrors"] == []
    assert api_token["scopes"] == ["READ"]
    assert (api_token["expiresAt"], api_token["lastUsedAt"]) == (None, None)
    secret = made["createApiToken"]["token"]
    assert (await server.ask(VIEWER, token=secret))["viewer"]["user"]["id"] == ada_id

    host = await enrolled(server, admin, "gpu-01")
    granted = await server.ask(
        USERS_AND_TOKENS,
        {"machineId": host.id, "userId": ada_id},
        token=admin,
        operation="GrantMachine",
    )
    assert granted["grantMachine"] == {
        "machine": {"id": host.id, "name": "gpu-01"},
        "userErrors": [],
    }
    taken = await server.ask(
        USERS_AND_TOKENS,
        {"machineId": host.id, "userId": ada_id},
        token=admin,
        operation="RevokeMachineGrant",
    )
    assert taken["revokeMachineGrant"]["userErrors"] == []

    revoked = await server.ask(
        USERS_AND_TOKENS, {"id": api_token["id"]}, token=ada, operation="RevokeApiToken"
    )
    assert revoked["revokeApiToken"]["apiToken"]["revokedAt"] is not None
    assert (await server.post(VIEWER, token=secret)).status_code == 401

    enrollment = await server.ask(
        ENROLL,
        {"input": {"machineName": "gpu-02", "labels": [{"key": "rack", "value": "a1"}]}},
        token=admin,
    )
    payload = enrollment["createEnrollment"]
    assert payload["userErrors"] == []
    assert payload["enrollment"]["machineName"] == "gpu-02"
    assert payload["token"] in payload["command"]
    assert server.origin in payload["command"]


async def test_each_operation_runs_alone_too(server: Server) -> None:
    assert operations(USERS_AND_TOKENS) == [
        "CreateUser",
        "CreateApiToken",
        "RevokeApiToken",
        "GrantMachine",
        "RevokeMachineGrant",
    ]
    admin = await server.sign_in()
    alone = only(USERS_AND_TOKENS, "CreateUser")
    answer = await server.ask(
        alone,
        {"input": {"username": "mallory", "password": "mallory-Passw0rd-1", "role": "USER"}},
        token=admin,
    )
    assert answer["createUser"]["user"]["username"] == "mallory"


async def test_json_sets_a_cookie_out_of_reach(server: Server) -> None:
    response = await server.http.post("/sign-in", json=CREDENTIALS)
    assert response.status_code == 204
    cookie, device = response.headers.get_list("set-cookie")
    assert device.startswith(f"{DEVICE}=rgd_")
    name, attributes = cookie.split("=", 1)[0], {a.strip() for a in cookie.split(";")[1:]}
    assert name == COOKIE
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= attributes
    # This server is reached by http: such a cookie would not come back.
    assert "Secure" not in attributes
    assert f"Max-Age={7 * 24 * 3600}" in attributes
    # The client keeps the cookie, as a browser does.
    body = (await server.post(VIEWER)).json()
    assert body["data"]["viewer"]["user"]["username"] == ADMIN


async def test_the_cookie_is_secure_behind_https(embedded: Backend, tmp_path: Path) -> None:
    """And nobody else than this very host, over TLS, can set one of its name."""
    async with serving(
        embedded, tmp_path / "state", public_url="https://gpu.example.org"
    ) as server:
        response = await server.http.post("/sign-in", json=CREDENTIALS)
        cookies = response.headers.get_list("set-cookie")
        assert [cookie.split("=")[0] for cookie in cookies] == [
            f"__Host-{COOKIE}",
            f"__Host-{DEVICE}",
        ]
        for cookie in cookies:
            attributes = {part.strip() for part in cookie.split(";")[1:]}
            assert {"HttpOnly", "Secure", "SameSite=strict", "Path=/"} <= attributes
            assert not any(part.lower().startswith("domain") for part in attributes)
        token = cookies[0].partition("=")[2].partition(";")[0]
        for name, known in ((f"__Host-{COOKIE}", True), (COOKIE, False)):
            answer = await server.post(VIEWER, headers={"Cookie": f"{name}={token}"})
            assert ("errors" not in answer.json()) == known
        ended = await server.http.post("/sign-out", headers={"Cookie": f"__Host-{COOKIE}={token}"})
        assert ended.headers["set-cookie"].startswith(f'__Host-{COOKIE}="";')
        assert "Secure" in ended.headers["set-cookie"]


async def test_a_form_signs_in_without_a_script(server: Server) -> None:
    response = await server.http.post("/sign-in", data=CREDENTIALS)
    assert response.status_code == 303
    assert response.headers["location"] == "/graphql"
    assert COOKIE in server.http.cookies


NO_SIGN_INS = [
    (b"", "application/json"),
    (b"{", "application/json"),
    (b"[]", "application/json"),
    (b'{"username": "admin"}', "application/json"),
    (b'{"username": 1, "password": 2}', "application/json"),
    (b"username=admin", "application/x-www-form-urlencoded"),
    (b"\xff\xfe", "application/x-www-form-urlencoded"),
    (b"a=1&" * 20, "application/x-www-form-urlencoded"),
    (b"x" * 5000, "application/json"),
    (b"", ""),
]


async def test_anything_else_is_explained(server: Server) -> None:
    for content, content_type in NO_SIGN_INS:
        response = await server.http.post(
            "/sign-in", content=content, headers={"Content-Type": content_type}
        )
        assert response.status_code == 400, content
        assert response.json()["error"]["code"] == "INVALID_INPUT"
        assert "set-cookie" not in response.headers


async def test_a_wrong_password_and_an_unknown_user_look_the_same(server: Server) -> None:
    known = await server.http.post("/sign-in", json={"username": ADMIN, "password": "wrong"})
    unknown = await server.http.post("/sign-in", json={"username": "nobody", "password": "wrong"})
    assert known.status_code == unknown.status_code == 400
    assert known.json() == unknown.json()
    assert known.json()["error"]["code"] == "INVALID_CREDENTIALS"


async def test_the_sixth_attempt_is_locked_out_whatever_it_says(server: Server) -> None:
    for _ in range(5):
        answer = await server.ask(SIGN_IN, {"username": ADMIN, "password": "wrong"})
        assert answer["signIn"]["userErrors"][0]["code"] == "INVALID_CREDENTIALS"
        assert answer["signIn"]["token"] is None
    locked = (await server.ask(SIGN_IN, CREDENTIALS))["signIn"]
    assert locked["token"] is None
    assert locked["userErrors"][0]["code"] == "LOCKED_OUT"
    assert "15 minutes" in locked["userErrors"][0]["message"]
    # The page counts with the graph.
    page = await server.http.post("/sign-in", json=CREDENTIALS)
    assert page.status_code == 429
    assert page.json()["error"]["code"] == "LOCKED_OUT"
    assert "set-cookie" not in page.headers
    await server.plane.refusals.flush()
    events = await AuditEvent.filter(action="signIn").order_by("id")
    told = [(event.details["code"], event.details["count"], event.outcome) for event in events]
    assert told == [("INVALID_CREDENTIALS", "5", "DENIED"), ("LOCKED_OUT", "2", "DENIED")]
    assert {event.target_type for event in events} == {"User"}


async def test_a_page_that_guesses_is_in_the_audit_trail(server: Server) -> None:
    admin = await server.sign_in()
    for _ in range(7):
        await server.http.post("/sign-in", json={"username": ADMIN, "password": "wrong"})
    found = await server.ask(
        AUDIT, {"filter": {"action": "signIn", "outcome": "DENIED"}}, token=admin
    )
    codes = {edge["node"]["details"][0]["value"] for edge in found["auditEvents"]["edges"]}
    assert len(found["auditEvents"]["edges"]) == 2, codes


async def test_a_strangers_document_is_one_event_however_often_it_repeats_itself(
    server: Server,
) -> None:
    before = await AuditEvent.all().count()
    aliases = " ".join(f"a{number}: signOut {{ user {{ id }} }}" for number in range(15))
    for _ in range(3):
        await server.post(f"mutation {{ {aliases} }}")
    assert await AuditEvent.all().count() == before
    await server.plane.refusals.flush()
    event = await AuditEvent.get(action="signOut")
    assert event.details == {"code": "UNAUTHENTICATED", "count": "45"}
    assert await AuditEvent.all().count() == before + 1


async def test_a_known_device_signs_in_while_strangers_guess(
    embedded: Backend, tmp_path: Path
) -> None:
    async with serving(embedded, tmp_path / "state", trusted_proxies="127.0.0.1") as server:
        first = (await server.ask(SIGN_IN_ON_DEVICE, {"input": CREDENTIALS}))["signIn"]
        assert (await server.http.post("/sign-in", json=CREDENTIALS)).status_code == 204
        # From 20 addresses of one network, and from elsewhere.
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as stranger:
            for address in (
                *(f"2001:db8::{number}" for number in range(20)),
                *(f"198.51.100.{network}" for network in range(ACCOUNT_LIMIT)),
            ):
                await stranger.post(
                    "/sign-in",
                    json={"username": ADMIN, "password": "wrong"},
                    headers={"X-Forwarded-For": address},
                )
        for token, good in ((None, False), ("rgd_x.y", False), (first["deviceToken"], True)):
            variables = {"input": {**CREDENTIALS, "deviceToken": token}}
            response = await server.post(
                SIGN_IN_ON_DEVICE, variables, headers={"X-Forwarded-For": "203.0.113.9"}
            )
            errors = [error["code"] for error in response.json()["data"]["signIn"]["userErrors"]]
            assert errors == ([] if good else ["LOCKED_OUT"])
        browser = await server.http.post(
            "/sign-in", json=CREDENTIALS, headers={"X-Forwarded-For": "203.0.113.10"}
        )
        assert browser.status_code == 204, "by its cookie"


async def test_a_document_checks_one_password(server: Server) -> None:
    admin = await server.sign_in()
    guess = f'signIn(input: {{username: "{ADMIN}", password: "wrong"}}) {{ userErrors {{ code }} }}'
    change = (
        'changePassword(input: {currentPassword: "wrong", newPassword: "an0ther-one"}) '
        "{ userErrors { code } }"
    )
    for first, others in ((guess, guess), (change, change), (guess, change)):
        aliases = " ".join(f"a{number}: {others}" for number in range(14))
        response = await server.post(f"mutation {{ first: {first} ...Others }} "
            f"fragment Others on Mutation {{ {aliases} }}", token=admin)  # fmt: skip
        data = response.json()["data"]
        codes = [data[name]["userErrors"][0]["code"] for name in data]
        assert codes == ["INVALID_CREDENTIALS", *["LIMIT_EXCEEDED"] * 14]


async def test_signing_out_ends_the_session_and_its_sockets(server: Server) -> None:
    await server.http.post("/sign-in", json=CREDENTIALS)
    cookie = server.http.cookies[COOKIE]
    other = await server.sign_in()
    async with (
        viewing(server, headers={"Cookie": f"{COOKIE}={cookie}"}) as viewer,
        viewing(server, other) as bystander,
    ):
        response = await server.http.post("/sign-out")
        assert response.status_code == 303
        assert response.headers["location"] == "/sign-in"
        assert COOKIE not in server.http.cookies
        assert (await viewer.closed(within=2))[0] == 4403
        body = (await server.post(VIEWER, headers={"Cookie": f"{COOKIE}={cookie}"})).json()
        assert body["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        # Another session of the same user goes on.
        operation = await bystander.subscribe(VIEWER)
        assert (await operation.data())["viewer"]["user"]["username"] == ADMIN


async def test_signing_out_twice_is_no_error(server: Server) -> None:
    for _ in range(2):
        response = await server.http.post("/sign-out", headers={"Content-Type": "application/json"})
        assert response.status_code == 204


async def test_the_mutation_signs_out_over_its_own_socket(server: Server) -> None:
    token = await server.sign_in()
    async with viewing(server, token) as viewer:
        await viewer.subscribe("mutation { signOut { user { username } } }")
        assert (await viewer.closed(within=2))[0] == 4403
    assert (await server.post(VIEWER, token=token)).status_code == 401


async def test_a_machine_is_nothing_to_those_without_a_grant(server: Server) -> None:
    admin = await server.sign_in()
    host: Host = await enrolled(server, admin, "gpu-01")
    _, ada = await server.make_user(admin, "ada")
    for token in (ada, None):
        response = await server.post(
            "query($id: ID!) { node(id: $id) { id } machine(id: $id) { id } "
            "nodes(ids: [$id]) { id } machines { totalCount } fleet { machines { total } } }",
            {"id": host.id},
            token=token,
        )
        data = response.json()["data"]
        if token is None:
            assert all(value is None for value in data.values())
            continue
        assert (data["node"], data["machine"], data["nodes"]) == (None, None, [None])
        assert data["machines"]["totalCount"] == 0
        assert data["fleet"]["machines"]["total"] == 0


async def test_cookies_do_not_leak_between_clients(server: Server) -> None:
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as stranger:
        await server.http.post("/sign-in", json=CREDENTIALS)
        body = (await stranger.post("/graphql", json={"query": VIEWER})).json()
        assert body["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
