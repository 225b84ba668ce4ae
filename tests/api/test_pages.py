"""Pages for people: what they load, and what they may."""

import re

import pytest

from remotegpu_api.web.pages import STATIC
from tests.api.plane import ADMIN, ADMIN_PASSWORD, Server

HTML = {"Accept": "text/html,application/xhtml+xml"}
_ASSET = re.compile(r"""(?:src|href)=["']([^"']+)["']""")
_URL = re.compile(r"""(?:https?:)?//[a-z0-9.-]+""", re.IGNORECASE)


async def test_a_browser_is_led_to_the_sign_in_page_and_then_to_the_console(
    server: Server,
) -> None:
    first = await server.http.get("/", headers=HTML)
    assert first.headers["location"] == "/graphql"
    console = await server.http.get("/graphql", headers=HTML)
    assert (console.status_code, console.headers["location"]) == (303, "/sign-in")
    page = await server.http.get("/sign-in", headers=HTML)
    assert page.status_code == 200
    assert 'id="sign-in"' in page.text
    await server.http.post("/sign-in", json={"username": ADMIN, "password": ADMIN_PASSWORD})
    console = await server.http.get("/graphql", headers=HTML)
    assert console.status_code == 200
    assert 'id="graphiql"' in console.text


async def test_a_bad_bearer_token_leads_to_the_sign_in_page(server: Server) -> None:
    response = await server.http.get(
        "/graphql", headers={**HTML, "Authorization": "Bearer rgs_nonsense"}
    )
    assert (response.status_code, response.headers["location"]) == (303, "/sign-in")


async def test_nothing_from_elsewhere_may_run(server: Server) -> None:
    page = await server.http.get("/sign-in", headers=HTML)
    policy = dict(
        part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'self'"
    assert policy["script-src"] == "'self'"
    assert policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert policy["form-action"] == "'self'"
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("name", ["sign-in.html", "console.html"])
async def test_every_asset_is_served_from_here(server: Server, name: str) -> None:
    text = (STATIC / name).read_text()
    found = _ASSET.findall(text)
    assert len(found) >= 3
    for path in found:
        assert path.startswith("/static/"), path
        response = await server.http.get(path)
        assert response.status_code == 200, path
        assert response.content
    # No script within the page: the policy would not let it run.
    assert re.search(r"<script(?![^>]*\bsrc=)", text) is None
    assert re.search(r"\son[a-z]+=", text) is None
    assert _URL.findall(text) == []


async def test_assets_are_under_the_policy_of_pages(server: Server) -> None:
    for path in ("/static/sign-in.html", "/static/console.js", "/static/style.css"):
        response = await server.http.get(path)
        assert response.status_code == 200
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["referrer-policy"] == "no-referrer"
        again = await server.http.get(path, headers={"If-None-Match": response.headers["etag"]})
        assert again.status_code == 304


@pytest.mark.parametrize(
    "path", ["/", "/graphql", "/graphql/", "/static", "/static/", "/sign-in/", "//evil.example/"]
)
async def test_no_redirect_leads_to_the_host_that_a_request_names(
    server: Server, path: str
) -> None:
    headers = {**HTML, "Host": "evil.example"}
    response = await server.http.get(f"{server.url}{path}", headers=headers)
    assert "evil.example" not in response.headers.get("location", "")


async def test_no_page_of_ours_names_another_host() -> None:
    for path in [*STATIC.glob("*.js"), *STATIC.glob("*.css"), *STATIC.glob("*.svg")]:
        named = [url for url in _URL.findall(path.read_text()) if "www.w3.org" not in url]
        assert named == [], path


@pytest.mark.parametrize(
    "path", ["/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/"]
)
async def test_only_assets_are_served(server: Server, path: str) -> None:
    assert (await server.http.get(path)).status_code == 404
