"""Who sent a request, and from where."""

from pathlib import Path

import pytest
from starlette.requests import HTTPConnection
from websockets.exceptions import InvalidStatus

from remotegpu_api.callers import source_address
from remotegpu_api.cookies import SESSION as COOKIE
from remotegpu_core.networks import UNKNOWN
from remotegpu_core.settings import load_settings
from tests.api.documents import AUDIT, SIGN_IN, VIEWER
from tests.api.plane import ADMIN, Backend, Server, serving
from tests.api.viewer import Viewer, dialled, viewing

BAD_TOKENS = ["nonsense", "rgs_", "rgs_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "rge_x" * 50]


async def test_a_bad_bearer_token_is_401(server: Server) -> None:
    for token in BAD_TOKENS:
        response = await server.post("{ __typename }", token=token)
        assert response.status_code == 401, token
        body = response.json()
        assert "data" not in body
        assert body["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"
        assert token not in response.text


async def test_a_bearer_token_beats_the_cookie(server: Server) -> None:
    admin = await server.sign_in()
    _, ada = await server.make_user(admin, "ada")
    both = {"Cookie": f"{COOKIE}={admin}", "Authorization": f"Bearer {ada}"}
    body = (await server.post(VIEWER, headers=both)).json()
    assert body["data"]["viewer"]["user"]["username"] == "ada"
    # A bad one is refused rather than passed over for a good cookie.
    refused = await server.post(
        VIEWER, headers={"Cookie": f"{COOKIE}={admin}", "Authorization": "Bearer rgs_nonsense"}
    )
    assert refused.status_code == 401


async def test_a_cookie_signs_in_and_a_stale_one_is_no_error(server: Server) -> None:
    admin = await server.sign_in()
    body = (await server.post(VIEWER, headers={"Cookie": f"{COOKIE}={admin}"})).json()
    assert body["data"]["viewer"]["user"]["username"] == ADMIN
    stale = await server.post("{ __typename }", headers={"Cookie": f"{COOKIE}=rgs_stale"})
    assert stale.status_code == 200


async def test_another_scheme_of_authorization_is_nobody(server: Server) -> None:
    body = (await server.post(VIEWER, headers={"Authorization": "Basic YTpi"})).json()
    assert body["errors"][0]["extensions"]["code"] == "UNAUTHENTICATED"


FOREIGN = [
    "https://evil.example",
    "http://127.0.0.1:1",
    "null",
    "http://127.0.0.1.evil.example",
    "https://127.0.0.1",
    "file://",
]


async def test_pages_of_other_origins_are_refused(server: Server) -> None:
    admin = await server.sign_in()
    for origin in FOREIGN:
        cookie = {"Cookie": f"{COOKIE}={admin}", "Origin": origin}
        response = await server.post(VIEWER, headers=cookie)
        assert response.status_code == 403, origin
        assert "data" not in response.json()
        for path in ("/sign-in", "/sign-out"):
            refused = await server.http.post(
                path, json={"username": ADMIN, "password": "x"}, headers=cookie
            )
            assert refused.status_code == 403, (origin, path)
        with pytest.raises(InvalidStatus) as caught:
            async with dialled(server, origin=origin, headers={"Cookie": cookie["Cookie"]}):
                pass
        assert caught.value.response.status_code == 403
    # Nothing of it ended the session.
    assert (await server.post(VIEWER, token=admin)).status_code == 200


async def test_our_own_pages_may(server: Server) -> None:
    admin = await server.sign_in()
    for origin in (server.origin, f"{server.origin}/", server.origin.upper()):
        headers = {"Cookie": f"{COOKIE}={admin}", "Origin": origin}
        assert (await server.post(VIEWER, headers=headers)).status_code == 200
        async with dialled(server, origin=origin, headers={"Cookie": headers["Cookie"]}) as socket:
            viewer = Viewer(socket)
            await viewer.init()
            operation = await viewer.subscribe(VIEWER)
            assert (await operation.data())["viewer"]["user"]["username"] == ADMIN
            await viewer.stop()


async def test_the_page_may_be_reached_by_another_name(server: Server) -> None:
    # `localhost` instead of the public address: the browser's cookie belongs to that very host.
    host = f"localhost:{server.port}"
    headers = {"Host": host, "Origin": f"http://{host}"}
    assert (await server.post("{ __typename }", headers=headers)).status_code == 200
    other = {"Host": host, "Origin": f"http://localhost:{server.port + 1}"}
    assert (await server.post("{ __typename }", headers=other)).status_code == 403


async def _audited_address(server: Server, **headers: str) -> str:
    response = await server.http.post(
        "/graphql",
        json={"query": SIGN_IN, "variables": {"username": "nobody", "password": "x"}},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
    )
    assert response.json()["data"]["signIn"]["userErrors"][0]["code"] == "INVALID_CREDENTIALS"
    return await _newest_denied(server)


async def _newest_denied(server: Server) -> str:
    admin = await server.sign_in()
    events = await server.ask(
        AUDIT, {"filter": {"action": "signIn", "outcome": "DENIED"}}, token=admin
    )
    address: str = events["auditEvents"]["edges"][0]["node"]["sourceAddress"]
    return address


async def test_forwarded_addresses_are_not_believed_from_anybody(server: Server) -> None:
    assert await _audited_address(server, X_Forwarded_For="203.0.113.7") == "127.0.0.1"


Header = list[tuple[str, str]]


def xff(*lines: str) -> Header:
    return [("X-Forwarded-For", line) for line in lines]


def forwarded(*lines: str) -> Header:
    return [("Forwarded", line) for line in lines]


#: What a proxy at 127.0.0.1 passes on, and whose address it tells.
FORWARDED: list[tuple[Header, str]] = [
    (xff("203.0.113.7"), "203.0.113.7"),
    # What the caller made up stands on the left, what proxies saw on the right.
    (xff("198.51.100.1, 203.0.113.7"), "203.0.113.7"),
    (xff("198.51.100.1, 203.0.113.7, 10.0.0.2"), "203.0.113.7"),
    (xff("198.51.100.1, 203.0.113.7, 10.1.2.3:80, [::ffff:10.9.9.9]:1"), "203.0.113.7"),
    # Some proxies add a line of their own below what the caller sent.
    (xff("198.51.100.66", "203.0.113.7"), "203.0.113.7"),
    (xff("2001:DB8::1"), "2001:db8::1"),
    # With a port, in brackets, mapped into IPv6: the same caller.
    (xff("203.0.113.9:51234"), "203.0.113.9"),
    (xff("[2001:db8::9]"), "2001:db8::9"),
    (xff("[2001:db8::9]:51234"), "2001:db8::9"),
    (xff("::ffff:203.0.113.9"), "203.0.113.9"),
    (xff('"203.0.113.9"'), "203.0.113.9"),
    (forwarded("for=203.0.113.9"), "203.0.113.9"),
    (forwarded('For="203.0.113.9:51234";proto=https;by=10.0.0.2'), "203.0.113.9"),
    (forwarded('proto=http; for="[2001:DB8::9]:_x"'), "2001:db8::9"),
    (forwarded("for=127.0.0.1, for=203.0.113.9;by=x, for=10.0.0.2"), "203.0.113.9"),
    (forwarded('for=127.0.0.1;by="', "for=203.0.113.9"), "203.0.113.9"),
    (xff("203.0.113.9") + forwarded("for=203.0.113.9;proto=https"), "203.0.113.9"),
    # Only proxies: the first of them asks.
    (xff("10.0.0.3, 10.0.0.2"), "10.0.0.3"),
    ([], "127.0.0.1"),
    # What cannot be read is nobody's address, least of all the proxy's.
    *(
        (headers, UNKNOWN)
        for headers in (
            *(xff(""), xff("unknown, 10.0.0.2"), xff("nonsense"), xff("203.0.113.9:port")),
            *(xff("203.0.113.9:"), xff("[2001:db8::9"), xff("[2001:db8::9]x"), xff("010.0.0.7")),
            *(xff("203.0.113.7,"), xff("0.0.0.1:x"), xff("224.0.0.1"), xff("gpu.example")),
            *(forwarded("for=unknown"), forwarded("for=_hidden"), forwarded("proto=https")),
            *(forwarded(""), forwarded('for="203.0.113.9'), forwarded("203.0.113.9")),
            *(forwarded("for=203.0.113.9", "for=127.0.0.1 x"), forwarded("for=203.0.113.9,")),
            # Two headers that disagree: one of them may be the caller's invention.
            (xff("203.0.113.9") + forwarded("for=127.0.0.1")),
            (xff("127.0.0.1") + forwarded("for=203.0.113.9")),
            [("X-Real-IP", "203.0.113.9")],
            [("X-Forwarded-Proto", "https")],
        )
    ),
    # Loopback of another host than this one.
    (xff("127.0.0.1, 10.0.0.2"), UNKNOWN),
]


async def test_forwarded_addresses_are_believed_from_trusted_proxies(
    embedded: Backend, tmp_path: Path
) -> None:
    settings = load_settings(trusted_proxies="localhost, 10.0.0.0/8")
    for headers, believed in FORWARDED:
        assert source_address(_request("127.0.0.1", headers), settings) == believed, headers
    async with serving(
        embedded, tmp_path / "state", trusted_proxies="::ffff:127.0.0.0/104"
    ) as server:
        assert await _audited_address(server, X_Forwarded_For="[2001:db8::9]:1") == "2001:db8::9"
        assert await _audited_address(server, X_Forwarded_For="x") == UNKNOWN


@pytest.mark.parametrize("peer", ["203.0.113.1", "::ffff:203.0.113.1", "2001:DB8::1"])
def test_a_peer_that_is_no_proxy_speaks_for_itself(peer: str) -> None:
    settings = load_settings(trusted_proxies="localhost, 10.0.0.0/8")
    found = source_address(_request(peer, xff("127.0.0.1")), settings)
    assert found == peer.removeprefix("::ffff:").lower()


def test_a_peer_without_an_address_is_unknown() -> None:
    assert source_address(_request(None, xff("127.0.0.1")), load_settings()) == UNKNOWN


def _request(peer: str | None, headers: Header) -> HTTPConnection:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    return HTTPConnection({"type": "http", "client": peer and (peer, 1), "headers": raw})


async def test_what_comes_from_unknown_addresses_locks_nobody_else_out(
    embedded: Backend, tmp_path: Path
) -> None:
    async with serving(embedded, tmp_path / "state", trusted_proxies="127.0.0.1") as server:
        guess = {"username": ADMIN, "password": "wrong"}
        codes = []
        for _ in range(6):
            refused = await server.http.post(
                "/sign-in", json=guess, headers={"X-Forwarded-For": "nonsense"}
            )
            codes.append(refused.json()["error"]["code"])
        assert codes == ["INVALID_CREDENTIALS"] * 5 + ["LOCKED_OUT"]
        await server.sign_in()


async def test_a_socket_has_an_address_too(embedded: Backend, tmp_path: Path) -> None:
    async with serving(embedded, tmp_path / "state", trusted_proxies=["127.0.0.1"]) as server:
        async with viewing(server, headers={"X-Forwarded-For": "203.0.113.9"}) as viewer:
            operation = await viewer.subscribe(SIGN_IN, {"username": "nobody", "password": "x"})
            answer = await operation.data()
        assert answer["signIn"]["userErrors"][0]["code"] == "INVALID_CREDENTIALS"
        assert await _newest_denied(server) == "203.0.113.9"
