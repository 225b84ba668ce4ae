"""Pages of other origins: refused, or allowed by the operator, and then never by the cookie."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from remotegpu_api.cookies import SESSION as COOKIE
from tests.api.documents import VIEWER
from tests.api.plane import ADMIN, ADMIN_PASSWORD, Backend, Server, serving
from tests.api.viewer import Viewer, dialled

STUDIO = "https://studio.apollographql.com"
ALTAIR = "altair://-"
FOREIGN = "https://evil.example"


@pytest.fixture
async def open_server(embedded: Backend, tmp_path: Path) -> AsyncIterator[Server]:
    async with serving(
        embedded, tmp_path / "state", allowed_origins=f"{STUDIO}/, {ALTAIR}"
    ) as started:
        yield started


async def test_a_listed_page_asks_first_and_may(open_server: Server) -> None:
    for origin in (STUDIO, ALTAIR):
        for method in ("POST", "GET"):
            answer = await open_server.http.options(
                "/graphql",
                headers={
                    "Origin": origin,
                    "Access-Control-Request-Method": method,
                    "Access-Control-Request-Headers": "authorization,content-type,x-anything",
                },
            )
            assert answer.status_code == 200
            told = answer.headers
            assert told["access-control-allow-origin"] == origin
            assert method in told["access-control-allow-methods"]
            assert "authorization" in told["access-control-allow-headers"]
            assert int(told["access-control-max-age"]) >= 600
            assert "Origin" in told["vary"]
            assert "access-control-allow-credentials" not in told


async def test_a_listed_page_comes_with_a_token(open_server: Server) -> None:
    admin = await open_server.sign_in()
    for origin in (STUDIO, ALTAIR):
        response = await open_server.post(VIEWER, token=admin, headers={"Origin": origin})
        assert response.json()["data"]["viewer"]["user"]["username"] == ADMIN
        assert response.headers["access-control-allow-origin"] == origin
        assert response.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in response.headers
    # Errors can be read too, and how long to wait.
    refused = await open_server.post(VIEWER, token="rgs_no", headers={"Origin": STUDIO})
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == STUDIO
    assert refused.headers["access-control-expose-headers"] == "Retry-After"


async def test_a_listed_page_never_comes_by_the_cookie(open_server: Server) -> None:
    admin = await open_server.sign_in()
    headers = {"Origin": STUDIO, "Cookie": f"{COOKIE}={admin}"}
    for response in (
        await open_server.post(VIEWER, headers=headers),
        await open_server.http.get(
            "/graphql",
            params={"query": VIEWER},
            headers={**headers, "GraphQL-Require-Preflight": "1"},
        ),
    ):
        body = response.json()
        assert body["data"]["viewer"] is None
        assert "cookie" in body["extensions"]["ignored"][0]
    for path in ("/sign-in", "/sign-out"):
        credentials = {"username": ADMIN, "password": ADMIN_PASSWORD}
        refused = await open_server.http.post(path, json=credentials, headers=headers)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
    assert (await open_server.post(VIEWER, token=admin)).status_code == 200


async def test_a_listed_page_watches_with_a_token(open_server: Server) -> None:
    admin = await open_server.sign_in()
    cookie = {"Cookie": f"{COOKIE}={admin}"}
    async with dialled(open_server, origin=STUDIO, headers=cookie) as socket:
        viewer = Viewer(socket)
        await viewer.init(admin)
        operation = await viewer.subscribe(VIEWER)
        assert (await operation.data())["viewer"]["user"]["username"] == ADMIN
        await viewer.stop()
    async with dialled(open_server, origin=STUDIO, headers=cookie) as socket:
        viewer = Viewer(socket)
        await viewer.send({"type": "connection_init"})
        code, reason = await viewer.closed()
        assert code == 4403
        assert "token" in (reason or "")


async def test_other_pages_stay_refused(open_server: Server) -> None:
    admin = await open_server.sign_in()
    for origin in (FOREIGN, f"{STUDIO}.evil.example", "http://studio.apollographql.com", "null"):
        asked = await open_server.http.options(
            "/graphql",
            headers={"Origin": origin, "Access-Control-Request-Method": "POST"},
        )
        sent = await open_server.post(VIEWER, token=admin, headers={"Origin": origin})
        assert sent.status_code == 403
        assert "REMOTEGPU_ALLOWED_ORIGINS" in sent.json()["errors"][0]["message"]
        for response in (asked, sent):
            assert "access-control-allow-origin" not in response.headers
