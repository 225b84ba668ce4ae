"""`remotegpu serve` as an operator meets it."""

import asyncio
import json
import re
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from tests.api.documents import SIGN_IN
from tests.api.program import Running, call, call_here, started
from tests.services.ports import LOOPBACK, unused_port

PASSWORD = "operator-Passw0rd-1"


def _settings(data: Path, port: int, **more: str) -> dict[str, str]:
    return {
        "REMOTEGPU_DATA_DIR": str(data),
        "REMOTEGPU_PORT": str(port),
        **{f"REMOTEGPU_{name.upper()}": value for name, value in more.items()},
    }


async def _serving(server: Running, port: int) -> None:
    await server.says(f"Serving http://127.0.0.1:{port}/graphql")
    async with httpx.AsyncClient(trust_env=False) as http:
        for _ in range(200):
            try:
                response = await http.get(f"http://{LOOPBACK}:{port}/healthz")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                assert response.status_code == 200
                return
    raise AssertionError(server.log)


async def _sign_in(port: int, password: str) -> str | None:
    async with httpx.AsyncClient(trust_env=False) as http:
        response = await http.post(
            f"http://{LOOPBACK}:{port}/graphql",
            json={"query": SIGN_IN, "variables": {"username": "admin", "password": password}},
        )
    token: str | None = response.json()["data"]["signIn"]["token"]
    return token


async def test_the_first_start_shows_the_password_once(tmp_path: Path) -> None:
    data, port = tmp_path / "data", unused_port()
    environment = _settings(data, port)
    async with started("serve", environment=environment) as server:
        await _serving(server, port)
        shown = re.search(r"password (\S+)\n", server.output)
        assert shown is not None, server.output
        password = shown.group(1)
        assert len(password) == 24
        token = await _sign_in(port, password)
        assert token is not None
        # A live viewer does not hold the end up.
        async with connect(
            f"ws://{LOOPBACK}:{port}/graphql",
            subprotocols=[Subprotocol("graphql-transport-ws")],
            proxy=None,
        ) as viewer:
            await viewer.send('{"type": "connection_init"}')
            await viewer.recv()
            assert await server.end() < 5
        assert server.process.returncode == 0
    assert password not in server.log
    assert server.output.count(password) == 1
    assert oct(data.stat().st_mode & 0o777) == "0o700"
    assert oct((data / "remotegpu.sqlite3").stat().st_mode & 0o777) == "0o600"
    async with started("serve", environment=environment) as server:
        await _serving(server, port)
        assert "password" not in server.output
        assert await _sign_in(port, password) is not None
        second = await call("serve", environment=_settings(data, unused_port()))
        assert "Another server uses" in second.one_line
        assert "REMOTEGPU_DATA_DIR" in second.one_line
        assert await server.end(signal.SIGINT) < 5
        assert server.process.returncode == 0
    assert "Traceback" not in server.log


async def test_a_taken_port_gets_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        failed = await call("serve", environment=_settings(tmp_path / "data", port))
    assert f"Port {port}" in failed.one_line
    assert "REMOTEGPU_PORT" in failed.one_line
    # Nothing was begun.
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("name", "value", "hint"),
    [
        ("data_dir", "/proc/nowhere", "REMOTEGPU_DATA_DIR"),
        ("data_dir", "/dev/null/x[/b]", "/dev/null/x[/b]"),
        ("port", "http", "REMOTEGPU_PORT"),
        ("port", "70000", "REMOTEGPU_PORT"),
        ("host", "203.0.113.1", "REMOTEGPU_HOST"),
        ("public_url", "gpu.example.org", "https://gpu.example.org"),
        ("public_url", "https://[/::1]", "URL"),
        ("database_url", "mysql://localhost/x", "postgres://"),
        ("database_url", "postgres://u:secret-pw@127.0.0.1:1/x", "REMOTEGPU_DATABASE_URL"),
        ("redis_url", "http://localhost", "redis://"),
        ("log_level", "loud", "REMOTEGPU_LOG_LEVEL"),
        ("admin_password", "short", "password"),
        ("config", "/nowhere.toml", "REMOTEGPU_CONFIG"),
        ("tls_certificate", "/nowhere.pem", "REMOTEGPU_TLS"),
    ],
)
def test_a_bad_setting_gets_one_line(tmp_path: Path, name: str, value: str, hint: str) -> None:
    environment = _settings(tmp_path / "data", unused_port())
    environment[f"REMOTEGPU_{name.upper()}"] = value
    failed = call_here("serve", environment=environment)
    assert hint in failed.one_line
    assert "secret-pw" not in failed.err + failed.out


def test_a_database_file_that_is_none_gets_one_line(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "remotegpu.sqlite3").write_text("This is no database, and longer than a header.\n" * 99)
    failed = call_here("serve", environment=_settings(data, unused_port()))
    assert "remotegpu.sqlite3" in failed.one_line


def test_a_file_of_settings_that_is_none_gets_one_line(tmp_path: Path) -> None:
    file = tmp_path / "remotegpu.toml"
    file.write_text("port = [\n")
    failed = call_here("serve", environment={"REMOTEGPU_CONFIG": str(file)})
    assert "TOML" in failed.one_line


async def test_it_scales_out(tmp_path: Path, postgres_url: str, redis_url: str) -> None:
    """Two replicas: what one does, the viewers of the other see."""
    ports = [unused_port(), unused_port()]
    shared = {"database_url": postgres_url, "redis_url": redis_url, "admin_password": PASSWORD}
    first, second = (_settings(tmp_path / str(port), port, **shared) for port in ports)
    async with (
        started("serve", environment=first) as one,
        started("serve", environment=second) as two,
    ):
        await _serving(one, ports[0])
        await _serving(two, ports[1])
        token = await _sign_in(ports[0], PASSWORD)
        assert token is not None
        async with connect(
            f"ws://{LOOPBACK}:{ports[1]}/graphql",
            subprotocols=[Subprotocol("graphql-transport-ws")],
            additional_headers={"Authorization": f"Bearer {token}"},
            proxy=None,
        ) as viewer:
            await viewer.send('{"type": "connection_init"}')
            assert "connection_ack" in str(await viewer.recv())
            async with httpx.AsyncClient(trust_env=False) as http:
                await http.post(
                    f"http://{LOOPBACK}:{ports[0]}/graphql",
                    json={"query": "mutation { signOut { user { id } } }"},
                    headers={"Authorization": f"Bearer {token}"},
                )
            began = time.monotonic()
            async with asyncio.timeout(5):
                await viewer.wait_closed()
            assert time.monotonic() - began < 2
            assert viewer.close_code == 4403
        assert await one.end() < 5
        assert await two.end() < 5
    assert "Traceback" not in one.log + two.log


def test_help_is_for_strangers() -> None:
    top = call_here("--help")
    assert top.code == 0
    for word in ("serve", "demo", "migrate", "schema", "user", "REMOTEGPU_"):
        assert word in top.out
    for arguments in (
        ["serve"],
        ["demo"],
        ["migrate"],
        ["schema"],
        ["user", "create"],
        ["user", "reset-password"],
    ):
        shown = call_here(*arguments, "--help")
        assert shown.code == 0
        assert "Usage:" in shown.out
    wrong = call_here("no-such-command")
    assert wrong.code == 2
    assert "Traceback" not in wrong.err


async def test_the_log_has_one_json_object_a_line(tmp_path: Path) -> None:
    port = unused_port()
    file = tmp_path / "remotegpu.toml"
    data = tmp_path / "data"
    file.write_text(
        f'port = {port}\ndata_dir = "{data}"\nlog_format = "json"\nlog_level = "debug"\n'
    )
    environment = {"REMOTEGPU_CONFIG": str(file), "REMOTEGPU_ADMIN_PASSWORD": PASSWORD}
    async with started("serve", environment=environment) as server:
        await _serving(server, port)
        # A password that is given is not shown.
        assert "password" not in server.output
        assert await _sign_in(port, PASSWORD) is not None
        async with connect(f"ws://{LOOPBACK}:{port}/graphql", proxy=None) as viewer:
            await viewer.wait_closed()
        # What no client of ours sends: uvicorn's own warning goes the same way.
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        writer.write(b"\x16\x03\x01nonsense\r\n\r\n")
        await reader.read()
        writer.close()
        assert await server.end(signal.SIGHUP) < 5
    assert PASSWORD not in server.log + server.output
    lines = [json.loads(line) for line in server.err]
    assert any("HTTP" in line["event"] for line in lines), lines
    assert all("exception" not in line for line in lines)
