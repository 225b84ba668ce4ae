"""Opening the websocket, with real servers that do it right and wrong."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from remotegpu_agent.dial import Server, dial
from remotegpu_agent.errors import CertificateRefused, SettingError, Unreachable
from remotegpu_protocol.errors import InvalidValue
from tests.agent.authority import Authority
from tests.agent.control_plane import running_control_plane
from tests.services.dead_address import run_beside_a_dead_address

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def tcp_server(answer: Answer) -> AsyncIterator[str]:
    """The origin of a server that answers connections in its own way."""

    served: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, EOFError):
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.add(asyncio.create_task(serve_one(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*served)


def answering(text: str) -> Answer:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(text.encode())
        await writer.drain()

    return answer


async def test_a_private_authority_is_trusted_when_it_is_named(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with running_control_plane(tls=authority.server_context()) as plane:
        websocket = await dial(Server(plane.origin, str(authority.file)))
        assert plane.origin.startswith("https://localhost:")
        await websocket.close()


async def test_a_certificate_of_another_authority_is_refused(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other", "Other")
    async with running_control_plane(tls=authority.server_context()) as plane:
        for ca_file in (None, str(other.file)):
            with pytest.raises(CertificateRefused, match="enrol with --ca-file") as caught:
                await dial(Server(plane.origin, ca_file))
            assert "\n" not in caught.value.message
        assert plane.peers == []


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with running_control_plane(tls=authority.server_context("elsewhere.test")) as plane:
        with pytest.raises(CertificateRefused, match="localhost"):
            await dial(Server(plane.origin, str(authority.file)))


async def test_another_host_is_dialled_through_tls_only() -> None:
    with pytest.raises(InvalidValue, match="TLS only"):
        await dial(Server("http://gpu.example.org"))


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_cannot_be_used_is_a_setting_error(
    tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(SettingError, match=r"ca\.pem"):
        await dial(Server("https://localhost:1", str(file)))


async def test_nobody_there_is_one_line(free_port: int) -> None:
    with pytest.raises(Unreachable, match="Connection refused"):
        await dial(Server(f"http://127.0.0.1:{free_port}"))


async def test_a_name_that_does_not_exist_is_said() -> None:
    with pytest.raises(Unreachable, match="cannot be resolved"):
        await dial(Server("https://nowhere.invalid"))


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("404 Not Found", "HTTP status 404"),
        ("503 Service Unavailable", "try later"),
        ("302 Found\r\nLocation: ws://127.0.0.1:1/agent", "never follows"),
        ("418 I'm a teapot", "Check the address"),
    ],
)
async def test_a_web_server_that_is_no_control_plane(status: str, expected: str) -> None:
    answer = answering(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    async with tcp_server(answer) as origin:
        with pytest.raises(Unreachable, match=expected):
            await dial(Server(origin))


@pytest.mark.parametrize("said", ["SSH-2.0-OpenSSH_9.9\r\n", ""])
async def test_a_server_of_another_kind(said: str) -> None:
    async with tcp_server(answering(said)) as origin:
        with pytest.raises(Unreachable, match="Check"):
            await dial(Server(origin))


async def test_tls_with_a_server_that_has_none() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with tcp_server(answer) as origin:
        with pytest.raises(Unreachable, match="No TLS with"):
            await dial(Server(origin.replace("http:", "https:")))


async def test_a_websocket_without_the_subprotocol() -> None:
    async def ignore(websocket: ServerConnection) -> None:
        await websocket.wait_closed()

    async with serve(ignore, "127.0.0.1", 0) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        with pytest.raises(Unreachable, match=r"not remotegpu\.agent\.v1"):
            await dial(Server(f"http://127.0.0.1:{port}"))


async def test_a_proxy_is_used_when_it_is_asked_for() -> None:
    """The proxy sees a CONNECT; without the setting it would see nothing, HTTPS_PROXY or not."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with tcp_server(refuse) as proxy:
        with pytest.raises(SettingError, match="proxy cannot be used"):
            await dial(Server("https://gpu.example.test", proxy=proxy))
    assert asked[0].startswith(b"CONNECT gpu.example.test:443 HTTP/1.1\r\n")


async def test_the_environment_alone_makes_no_proxy(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{free_port}")
    with pytest.raises(Unreachable, match="cannot be resolved"):
        await dial(Server("https://nowhere.invalid"))


def test_an_address_that_takes_no_connection_does_not_use_up_the_time(tmp_path: Path) -> None:
    run_beside_a_dead_address(Path(__file__).parent / "dialling.py", tmp_path)
