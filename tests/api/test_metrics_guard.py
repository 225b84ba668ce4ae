"""Who may read metrics, and what everybody else is told."""

from collections.abc import Mapping
from pathlib import Path

import pytest
from starlette.requests import Request

from remotegpu_api.web.metrics_guard import refuse
from remotegpu_core.errors import InvalidInput
from remotegpu_core.settings import load_settings
from tests.api.plane import Backend, Server, serving

TOKEN = "prometheus-reads-0123456789"

Headers = Mapping[str, str]


def bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}


#: Every request comes from 127.0.0.1; `X-Forwarded-For` stands for a proxy on this host.
@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        # Neither setting: this host alone.
        ({}, {}, 200),
        ({}, bearer("anything"), 200),
        ({}, {"X-Forwarded-For": "198.51.100.7"}, 403),
        ({}, {"X-Forwarded-For": "127.0.0.1"}, 403),
        ({}, {"Forwarded": "for=198.51.100.7"}, 403),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-For": "198.51.100.7"}, 403),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-For": "198.51.100.7:51234"}, 403),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-For": "[2001:db8::9]"}, 403),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-For": "nonsense"}, 403),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Forwarded-For": "127.0.0.1"}, 403),
        ({"trusted_proxies": "127.0.0.1"}, {"X-Real-IP": "127.0.0.1"}, 403),
        ({"trusted_proxies": "127.0.0.1"}, {}, 200),
        # Names of this host, and one that somebody's page had resolved to it.
        ({}, {"Host": "localhost:8000"}, 200),
        ({}, {"Host": "[::1]"}, 200),
        ({}, {"Host": "127.0.0.2:1"}, 200),
        ({}, {"Host": "evil.example"}, 403),
        ({}, {"Host": "evil.example:8000"}, 403),
        ({}, {"Host": "127.0.0.1.evil.example"}, 403),
        ({}, {"Host": "[::1].evil.example"}, 403),
        ({"metrics_allow": "127.0.0.0/8"}, {"Host": "evil.example"}, 403),
        ({"metrics_token": TOKEN}, {**bearer(TOKEN), "Host": "gpu.example"}, 200),
        # A token: nobody without it, this host neither.
        ({"metrics_token": TOKEN}, bearer(TOKEN), 200),
        ({"metrics_token": TOKEN}, {"Authorization": f"bearer {TOKEN}"}, 200),
        ({"metrics_token": TOKEN}, {**bearer(TOKEN), "X-Forwarded-For": "198.51.100.7"}, 200),
        ({"metrics_token": TOKEN}, {}, 401),
        ({"metrics_token": TOKEN}, bearer(TOKEN[:-1]), 401),
        ({"metrics_token": TOKEN}, bearer(f"{TOKEN}x"), 401),
        ({"metrics_token": TOKEN}, {"Authorization": "Bearer"}, 401),
        ({"metrics_token": TOKEN}, {"Authorization": f"Basic {TOKEN}"}, 401),
        # Networks.
        ({"metrics_allow": "127.0.0.0/8"}, {}, 200),
        ({"metrics_allow": "10.0.0.0/8, ::1"}, {}, 403),
        ({"metrics_allow": "127.0.0.0/8"}, {"X-Forwarded-For": "198.51.100.7"}, 403),
        (
            {"metrics_allow": "198.51.100.0/24", "trusted_proxies": "127.0.0.1"},
            {"X-Forwarded-For": "198.51.100.7"},
            200,
        ),
        (
            {"metrics_allow": "198.51.100.0/24", "trusted_proxies": "127.0.0.1"},
            {"X-Forwarded-For": "203.0.113.9"},
            403,
        ),
        (
            {"metrics_allow": "0.0.0.0/0, ::/0", "trusted_proxies": "127.0.0.1"},
            {"X-Forwarded-For": "nonsense"},
            403,
        ),
        # The proxy itself is not who asks.
        (
            {"metrics_allow": "127.0.0.1", "trusted_proxies": "127.0.0.1"},
            {"X-Forwarded-For": "203.0.113.9"},
            403,
        ),
        # Both: either will do.
        ({"metrics_token": TOKEN, "metrics_allow": "127.0.0.1"}, {}, 200),
        ({"metrics_token": TOKEN, "metrics_allow": "10.0.0.0/8"}, bearer(TOKEN), 200),
        ({"metrics_token": TOKEN, "metrics_allow": "10.0.0.0/8"}, {}, 401),
    ],
)
def test_the_guard(settings: Mapping[str, str], headers: Headers, status: int) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": "http", "client": ("127.0.0.1", 1), "headers": raw}
    response = refuse(Request(scope), load_settings(**settings))
    if status == 200:
        assert response is None
        return
    assert response is not None
    assert response.status_code == status, response.body
    text = bytes(response.body).decode()
    assert text.count("\n") == 1
    assert text.endswith(".\n")
    assert "REMOTEGPU_METRICS" in text
    assert TOKEN not in text
    assert ("www-authenticate" in response.headers) == (status == 401)


async def test_over_http(server: Server) -> None:
    response = await server.http.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "remotegpu_agents_connected 0.0\n" in response.text
    response = await server.http.get("/metrics", headers={"X-Forwarded-For": "127.0.0.1"})
    assert response.status_code == 403
    assert "remotegpu_" not in response.text


async def test_a_session_is_no_token_for_metrics(embedded: Backend, tmp_path: Path) -> None:
    async with serving(embedded, tmp_path / "state", metrics_token=TOKEN) as server:
        admin = await server.sign_in()
        assert (await server.http.get("/metrics", headers=bearer(admin))).status_code == 401
        # Nor is the token one for the graph.
        answer = await server.post("{ viewer { id } }", token=TOKEN)
        assert answer.status_code == 401


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("metrics_token", "short", "at least 16"),
        ("metrics_token", "with spaces in between it", "without spaces"),
        ("metrics_token", "größer-als-ascii-0123", "ASCII"),
        (
            "metrics_allow",
            "10.0.0.5/8",
            r"10.0.0.5/8 has host bits set: write 10.0.0.0/8 .* or 10.0.0.5 ",
        ),
        ("metrics_allow", "everybody", "got 'everybody', which is not one"),
    ],
)
def test_settings_that_could_not_work_are_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said) as refused:
        load_settings(**{name: value})
    assert f"REMOTEGPU_{name.upper()}" in refused.value.message
    if name == "metrics_token":
        assert value not in refused.value.message
