"""The product on its frame path: the same bytes as on plain ASGI, and under TLS."""

import re
import ssl
import uuid
from pathlib import Path

import pytest
from starlette.types import Scope, Send
from websockets.asyncio.client import connect

from remotegpu_api.frames import FrameWriter
from remotegpu_api.live import socket as live_socket
from remotegpu_api.live.sender import AsgiSender, Sender, sender_for
from remotegpu_core.bus.samples import Sample
from remotegpu_core.clock import now_ms
from remotegpu_core.services.sign_in import sign_in
from tests.agent.authority import Authority
from tests.api.documents import LIVE
from tests.api.host import enrolled, frame, sample
from tests.api.plane import ADMIN, ADMIN_PASSWORD, Backend, Server, serving
from tests.api.viewer import PROTOCOL, Viewer, viewing

_GPUS = " ".join(
    f"all{number}: gpus {{ index uuid utilization memoryUsed memoryTotal temperature power }}"
    for number in range(9)
)
#: Says everything nine times, so that 64 GPUs make more than 64 KiB.
LONG = f"""subscription ($machineIds: [ID!]!) {{
  machineMetrics(machineIds: $machineIds) {{ sampledAt {_GPUS} }}
}}"""


async def test_both_paths_deliver_the_same_bytes(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    senders: list[Sender] = []

    def in_turn(scope: Scope, send: Send) -> Sender:
        """The frame path for the first viewer, plain ASGI for the second."""
        senders.append(AsgiSender(send) if senders else sender_for(scope, send))
        return senders[-1]

    monkeypatch.setattr(live_socket, "sender_for", in_turn)
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    async with viewing(server, admin) as framed, viewing(server, admin) as plain:
        assert [type(sender) for sender in senders] == [FrameWriter, AsgiSender]
        variables = {"machineIds": [host.id]}
        both = [
            await viewer.subscribe(LONG, variables, operation_id='ü"') for viewer in (framed, plain)
        ]
        began = now_ms()
        for number, gpus in enumerate((0, 1, 2, 64)):
            message = frame(sample(began + number, gpus=gpus))
            await server.plane.bus.publish_sample(
                uuid.UUID(host.machine_id), Sample(1, began + number, message)
            )
            for operation in both:
                await operation.data()
        first, second = (operation.frames for operation in both)
        assert first == second
        assert len(first[-1]) > 65536
        # What is answered once, what is refused, and pongs too.
        for viewer in (framed, plain):
            await (await viewer.subscribe("{ __typename }", operation_id="q")).end()
            await (await viewer.subscribe("{ ü }", operation_id="e")).end()
            await viewer.send({"type": "ping", "payload": {"ü": [1]}})
        for operation_id in ("q", "e"):
            assert _without_budget(framed, operation_id) == _without_budget(plain, operation_id)
        assert await framed.pongs.get() == await plain.pongs.get()


def _without_budget(viewer: Viewer, operation_id: str) -> list[str]:
    """Frames of an operation, but for what is left to spend: each operation spends some of it."""
    frames = viewer.operations[operation_id].frames
    return [re.sub(r'"remaining":{[^}]*}', "", frame) for frame in frames]


async def test_events_arrive_under_tls(embedded: Backend, tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    authority.server_context()
    chain = tmp_path / "ca" / "localhost.pem"
    async with serving(
        embedded, tmp_path / "state", tls_certificate=chain, tls_key=chain
    ) as server:
        signed_in = await sign_in(server.plane.settings, ADMIN, ADMIN_PASSWORD, source_address=None)
        async with connect(
            f"wss://localhost:{server.port}/graphql",
            ssl=ssl.create_default_context(cafile=authority.file),
            subprotocols=[PROTOCOL],
            proxy=None,
        ) as websocket:
            viewer = Viewer(websocket)
            await viewer.init(signed_in.token)
            (socket,) = server.hub.sockets
            assert isinstance(socket._sender, FrameWriter)
            operation = await viewer.subscribe(LIVE, operation="FleetPulse")
            assert "fleetChanged" in await operation.data()
            await viewer.stop()
