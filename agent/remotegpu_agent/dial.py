"""Opening the websocket to the control plane, and saying in one line why that failed."""

import asyncio
import logging
import os
import socket
import ssl
from dataclasses import dataclass
from typing import Any, Final, Literal

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    ProxyError,
    WebSocketException,
)
from websockets.typing import Subprotocol

from remotegpu_agent.errors import CertificateRefused, SettingError, Unreachable
from remotegpu_agent.tls import client_context
from remotegpu_agent.version import agent_version
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.limits import MAX_MESSAGE_BYTES, SUBPROTOCOL
from remotegpu_protocol.origin import agent_url

#: Seconds for name, TCP, TLS and HTTP together.
OPEN_TIMEOUT: Final = 10.0

#: Seconds that one address of a name is ahead of the next: RFC 8305's Connection Attempt Delay. An
#: address that takes no connection must not use up the time for the others.
HEAD_START: Final = 0.25

#: Seconds that a closing handshake may take. A peer that is gone does not answer one, and a
#: service manager waits for the agent to end.
CLOSE_TIMEOUT: Final = 1.0

# What goes wrong on a connection is told by the agent, once and in its own words.
_SILENT: Final = logging.getLogger("remotegpu_agent.websockets")
_SILENT.disabled = True

_STATUS_ADVICE: Final = {
    403: "Check that the address is that of a RemoteGPU control plane and not of a portal.",
    404: "Check the address: there is no RemoteGPU control plane there.",
    429: "It has all the connections that it may have; try later.",
    502: "The proxy in front of it cannot reach the control plane.",
    503: "The control plane is starting or overloaded; try later.",
    504: "The proxy in front of it cannot reach the control plane.",
}


@dataclass(frozen=True, slots=True)
class Server:
    """Where to dial. `proxy` is None for none, "auto" for what the environment says, or a URL."""

    origin: str
    ca_file: str | None = None
    proxy: str | None = None


def racing() -> dict[str, Any]:
    """What has a connection race the addresses of its name (RFC 8305).

    Only asyncio's own loop knows the option. The agent has no other one; tests run it on uvloop, too.
    """
    is_asyncios = isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop)
    return {"happy_eyeballs_delay": HEAD_START} if is_asyncios else {}


class _Connect(connect):
    # The origin that was dialled is what gets signed, so nobody may send the agent elsewhere.
    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def dial(server: Server, context: ssl.SSLContext | None = None) -> ClientConnection:
    """An open websocket that speaks the agents' subprotocol.

    `context` saves reading the authorities again; without it a `wss://` address gets its own.

    Raises:
        InvalidValue: the address is none, or an unencrypted one of another host.
        SettingError: the CA file or the proxy cannot be used.
        CertificateRefused: TLS works, but the other side is not who it should be.
        Unreachable: anything else.
    """
    url = agent_url(server.origin)
    secure = url.startswith("wss:")
    if secure and context is None:
        context = client_context(server.ca_file)
    proxy: str | Literal[True] | None = True if server.proxy == "auto" else server.proxy
    try:
        websocket = await _Connect(
            url,
            ssl=context if secure else None,
            subprotocols=[Subprotocol(SUBPROTOCOL)],
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
            max_queue=4,
            user_agent_header=f"remotegpu-agent/{agent_version()}",
            proxy=proxy,
            **racing(),
            open_timeout=OPEN_TIMEOUT,
            close_timeout=CLOSE_TIMEOUT,
            # The protocol has heartbeats of its own.
            ping_interval=None,
            logger=_SILENT,
        )
    except (OSError, EOFError, WebSocketException, ImportError, ValueError) as error:
        raise _explained(server, error) from None
    if websocket.subprotocol != SUBPROTOCOL:
        await websocket.close()
        raise Unreachable(
            f"{server.origin} speaks websocket, but not {SUBPROTOCOL}: check the address, and "
            "that the control plane is as new as this agent."
        )
    return websocket


def _explained(server: Server, error: Exception) -> Unreachable | SettingError:
    origin = server.origin
    match error:
        case ssl.SSLCertVerificationError():
            return CertificateRefused(
                f"The certificate of {origin} was refused: {clean_text(error.verify_message)}. "
                "If it comes from a private authority, enrol with --ca-file, naming that "
                "authority's certificate; verification cannot be switched off."
            )
        case ssl.SSLError():
            return Unreachable(
                f"No TLS with {origin}: {clean_text(str(error.reason or error))}. Check the "
                "address and the port."
            )
        case socket.gaierror():
            return Unreachable(
                f"The name in {origin} cannot be resolved: {error.strerror}. Check the address "
                "and this host's DNS."
            )
        case TimeoutError():
            return Unreachable(
                f"{origin} did not answer within {OPEN_TIMEOUT:g} s. Check the address and the "
                "firewalls between."
            )
        case InvalidProxy() | ProxyError() | ImportError():
            return SettingError(
                f"The proxy cannot be used: {clean_text(str(error))}. Expected an address like "
                "http://proxy.example.org:3128."
            )
        case InvalidStatus():
            status = error.response.status_code
            if 300 <= status < 400:
                advice = "It redirects, which an agent never follows: use the final address."
            else:
                advice = _STATUS_ADVICE.get(status, "Check the address.")
            return Unreachable(f"{origin} answered with HTTP status {status}. {advice}")
        case InvalidHandshake() | EOFError() | ValueError() | WebSocketException():
            return Unreachable(
                f"{origin} does not answer like a control plane: {clean_text(str(error))}. "
                "Check the address and the port."
            )
        case _:
            number = error.errno if isinstance(error, OSError) else None
            reason = os.strerror(number) if number else str(error)
            return Unreachable(
                f"{origin} cannot be reached: {clean_text(reason)}. Check that the control plane "
                "runs and that nothing blocks the way."
            )
