"""Why links end: each cause with a code and a reason of its own, and in full before the close."""

import asyncio
import contextlib

import pytest

from remotegpu_agent.identity import HostKey
from remotegpu_core.models import Machine
from remotegpu_core.services import hosts
from remotegpu_core.states import Lifecycle
from remotegpu_protocol.close_codes import CloseCode
from remotegpu_protocol.codec import decode_from_server
from remotegpu_protocol.limits import SUBPROTOCOL
from remotegpu_protocol.messages import Error
from remotegpu_protocol.openings import enrolling
from tests.api.host import Host, Link, enrolled, enrollment_token, socket
from tests.api.plane import Server
from tests.core.patience import eventually

ACCEPT = (
    "mutation($i: AcceptHostInput!) "
    "{ acceptHost(input: $i) { machine { commandHold } userErrors { message } } }"
)
RETIRE = (
    "mutation($i: RetireMachineInput!) "
    "{ retireMachine(input: $i) { machine { lifecycle } userErrors { message } } }"
)


async def said(link: Link) -> tuple[int | None, str, str]:
    """Close code, code and text of the fatal error before it."""
    code, reason = await link.closed(within=5)
    (error,) = [error for error in link.of(Error) if error.fatal]
    assert reason is not None
    assert error.message.startswith(reason.removesuffix("…"))
    return code, error.code, error.message


async def test_retirement(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with host.connected() as link:
        await server.ask(RETIRE, {"i": {"machineId": host.id}}, token=admin)
        code, name, text = await said(link)
        assert (code, name) == (CloseCode.REVOKED, "REVOKED")
        assert text.startswith("This machine was retired")
    async with host.dialled() as again:
        assert (await said(again))[:2] == (CloseCode.REVOKED, "REVOKED")


async def test_acceptance(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    await hosts.hold_clones((await Machine.get()).id)
    async with host.connected(opening=host.opening(journal=("j1", 0))) as link:
        accepted = await server.ask(ACCEPT, {"i": {"machineId": host.id}}, token=admin)
        assert accepted["acceptHost"]["machine"] == {"commandHold": None}
        assert (await said(link))[:2] == (CloseCode.ACCEPTED, "HOST_ACCEPTED")
    async with host.connected(opening=host.opening(journal=("j1", 0))):
        assert (await Machine.get()).command_hold is None
    # What was looked at was accepted, and not what comes next.
    async with host.connected(opening=host.opening(journal=("j2", 0))):
        assert (await Machine.get()).command_hold is not None


async def test_two_copies_of_one_host(any_server: Server) -> None:
    """Same key, same boot, same journal: what gives them away is that both are there."""
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")

    async def held() -> bool:
        return (await Machine.get()).command_hold == hosts.FLAPPING

    async def come_back() -> None:
        while not await held():
            async with host.connected(opening=host.opening(journal=("j1", 0))) as link:
                await link.closed(within=30)
                await asyncio.sleep(0.05)

    copies = [asyncio.create_task(come_back()) for _ in range(2)]
    try:
        await eventually(held)
    finally:
        for copy in copies:
            copy.cancel()
        await asyncio.gather(*copies, return_exceptions=True)
    assert (await Machine.get()).lifecycle is Lifecycle.QUARANTINED


async def test_a_host_that_dials_again_is_no_copy(server: Server) -> None:
    """Its old connections are half open: nobody is there any more."""
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(5):
            link = await stack.enter_async_context(host.connected())
            link.frozen = True
            link.websocket.transport.pause_reading()
        machine = await Machine.get()
        assert (machine.epoch, machine.command_hold) == (5, None)
        # Longer than it has to take its leave.
        await asyncio.sleep(2.5)
        assert (await Machine.get()).command_hold is None


async def test_a_key_that_another_machine_has(any_server: Server) -> None:
    server = any_server
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    answer = await host.enroll(await enrollment_token(server, admin, "gpu-02"))
    assert isinstance(answer, Error)
    assert answer.code == "KEY_IN_USE"
    assert "serves one machine only" in answer.message


async def turned_away(server: Server, subprotocol: str | None) -> tuple[int | None, str]:
    """Close code of a socket, and the error before it, whose text the reason is."""
    async with socket(server, subprotocol=subprotocol) as websocket, asyncio.timeout(5):
        frame = await websocket.recv()
        error = decode_from_server(frame)
        await websocket.wait_closed()
    assert isinstance(error, Error)
    assert error.fatal
    assert websocket.close_reason
    assert error.message.startswith(websocket.close_reason.removesuffix("…"))
    return websocket.close_code, error.code


async def test_who_is_turned_away_is_told_in_full(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await turned_away(server, None) == (CloseCode.VERSION_MISMATCH, "VERSION_MISMATCH")
    full = server.plane.settings.model_copy(update={"max_agents": 0})
    monkeypatch.setattr(server.plane, "settings", full)
    assert await turned_away(server, SUBPROTOCOL) == (CloseCode.OVERLOADED, "OVERLOADED")


class Liar:
    """Says that it has one key, and signs with another."""

    def __init__(self) -> None:
        self._own = HostKey.generate()
        self.public_key = HostKey.generate().public_key

    def sign(self, statement: bytes) -> bytes:
        return self._own.sign(statement)


async def test_a_signature_of_an_enrolment(server: Server) -> None:
    token = await enrollment_token(server, await server.sign_in(), "gpu-01")
    opening = enrolling(
        Liar(),
        token=token,
        origin=server.origin,
        agent_version="1",
        hostname="node",
        hardware_uuid=None,
    )
    async with Host(server).dialled(opening=opening) as link:
        code, name, text = await said(link)
    assert (code, name) == (CloseCode.UNAUTHENTICATED, "AUTHENTICATION_FAILED")
    assert text.startswith("The signature of the enrolment")
