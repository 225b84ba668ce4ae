"""Clients that start out well and then do not. Each checks what the server says meanwhile."""

import asyncio
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import msgspec

from remotegpu_agent.identity import HostKey
from remotegpu_core.clock import now_ms
from remotegpu_protocol.agent_link import AgentLink, AgentState
from remotegpu_protocol.codec import encode
from remotegpu_protocol.limits import SUBPROTOCOL as AGENT_SUBPROTOCOL
from remotegpu_protocol.messages import Error, Heartbeat
from remotegpu_protocol.openings import connecting, enrolling
from tests.api.documents import AUDIT, ENROLL, LIVE, MACHINES, VIEWER, only, operations
from tests.api.host import BOOT, inventory, sample
from tests.soak.mutate import mutated_bytes, mutated_document, mutated_tree, shuffled
from tests.soak.plane import Plane
from tests.soak.wire import BINARY, CLOSE, PING, PONG, Wire, dialled, upgrade

#: Operations that change little, so that attackers do not put each other out of work.
DOCUMENTS: Final = [
    only(text, name) for text in (VIEWER, MACHINES, LIVE, AUDIT, ENROLL) for name in operations(text)
    if not any(word in name for word in ("Retire", "Remove", "Delete", "Revoke", "Rename"))
]  # fmt: skip
SUBSCRIPTIONS: Final = [text for text in DOCUMENTS if text.lstrip().startswith("subscription")]


@dataclass
class Attack:
    """What one attacker does with, and what it counts: exchanges by kind, and bad answers."""

    plane: Plane
    machines: list[str]
    random: Random
    done: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def token(self) -> str:
        return self.random.choices([self.plane.token, "x", ""], [8, 1, 1])[0]

    def payload(self) -> dict[str, Any]:
        """A request that is mostly all right."""
        random = self.random
        document = random.choice(DOCUMENTS if random.random() < 0.6 else SUBSCRIPTIONS)
        variables: dict[str, Any] = {
            "machineIds": random.choices([*self.machines, "x"], k=random.randint(0, 4)),
            "id": random.choice([*self.machines, "x"]),
            "interval": random.choice([0.1, 1, 0, 1e9]),
            "first": random.choice([1, 100, 101, -1]),
            "after": random.choice([None, "x", "MQ=="]),
            "input": {"machineName": f"fuzz-{random.randrange(50)}"},
        }
        if random.random() < 0.3:
            document = mutated_document(document, random)
        if random.random() < 0.3:
            variables = mutated_tree(variables, random)
        return {"query": document, "variables": variables}


async def http(attack: Attack) -> None:
    """Requests to /graphql over one connection, whole, broken, chunked or cut off."""
    random = attack.random
    async with dialled(attack.plane.port) as wire:
        for _ in range(random.randint(1, 6)):
            body = json.dumps(attack.payload()).encode()
            if random.random() < 0.4:
                body = mutated_bytes(body, random)
            head = (
                f"POST {random.choice(['/graphql'] * 8 + ['/sign-in', '/agent', '//'])} HTTP/1.1\r\n"
                f"Host: x\r\nContent-Type: application/json\r\n"
                f"Authorization: Bearer {attack.token()}\r\n"
            ).encode()
            match random.randrange(6):
                case 0:
                    chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
                    request = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
                case 1:
                    length = max(0, len(body) + random.choice([-1, 1, 100]))
                    request = head + b"Content-Length: %d\r\n\r\n" % length + body
                case _:
                    request = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
            if random.random() < 0.15:
                request = mutated_bytes(request, random)
            await wire.send(request)
            if random.random() < 0.1:
                return
            seen = await wire.drain(random.choice([0.01, 0.1, 0.3]))
            attack.done["http"] += 1
            if b"HTTP/1.1 500" in seen:
                attack.bad.append(f"{request[-2000:]!r} -> {seen[-2000:]!r}")
            if not wire.open:
                return


async def viewer(attack: Attack) -> None:
    """graphql-transport-ws: messages in and out of order, mutated, in strange frames."""
    random = attack.random
    async with dialled(attack.plane.port) as wire:
        if not await upgrade(wire, "/graphql", "graphql-transport-ws", random):
            return
        said: list[Any] = [{"type": "connection_init", "payload": {"token": attack.token()}}]
        for number in range(random.randint(1, 12)):
            name = str(random.choice([number, 1]))
            said.append({"id": name, "type": "subscribe", "payload": attack.payload()})
            said.append({"type": random.choice(["ping", "pong"]), "payload": {"at": number}})
            if random.random() < 0.4:
                said.append({"id": name, "type": "complete"})
        reading = asyncio.create_task(_read(wire, attack))
        for message in [*said[:1], *shuffled(said[1:], random)]:
            changed = mutated_tree(message, random) if random.random() < 0.15 else message
            text = json.dumps(changed).encode()
            if random.random() < 0.05:
                text = mutated_bytes(text, random)
            await _send_strangely(wire, text, 1, random)
            attack.done["viewer"] += 1
            if not wire.open:
                break
            await asyncio.sleep(random.choice([0, 0, 0.01, 0.05]))
        await _leave(wire, random)
        await reading


async def agent(attack: Attack) -> None:
    """A signed link, or an enrolment, whose messages go bad."""
    random = attack.random
    host = random.choice(attack.plane.hosts)
    async with dialled(attack.plane.port) as wire:
        if not await upgrade(wire, "/agent", AGENT_SUBPROTOCOL, random):
            return
        opening = (
            connecting(
                host.key,
                machine_id=host.machine_id,
                origin=attack.plane.origin,
                agent_version="fuzz",
                boot_id=BOOT,
            )
            if random.random() < 0.8
            else enrolling(
                HostKey.generate(),
                token="no such token",
                origin=attack.plane.origin,
                agent_version="fuzz",
                hostname="fuzz",
                hardware_uuid=None,
            )
        )
        link = AgentLink(opening, now=time.monotonic())
        if not await _open(wire, link, random):
            return
        reading = asyncio.create_task(_read(wire, attack))
        said = [
            encode(sample(gpus=random.randint(0, 8))),
            encode(inventory(*(f"GPU-{n}" for n in range(random.randint(0, 4))))),
            encode(Heartbeat(random.randrange(100), now_ms())),
            encode(Error("CODE", "A message.")),
            *link.take_frames(),
        ] * random.randint(1, 6)
        for message in shuffled(said, random):
            await _send_strangely(wire, _mutated_message(message, random), BINARY, random)
            attack.done["agent"] += 1
            if not wire.open:
                break
            await asyncio.sleep(random.choice([0, 0, 0.01, 0.05]))
        await _leave(wire, random)
        await reading


async def raw(attack: Attack) -> None:
    """Bytes that are no protocol at all, and upgrades that are none."""
    random = attack.random
    async with dialled(attack.plane.port) as wire:
        upgrade_request = (
            b"GET /graphql HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Protocol: graphql-transport-ws\r\n\r\n"
        )
        match random.randrange(4):
            case 0:
                data = random.randbytes(random.randint(1, 3000))
            case 1:
                data = mutated_bytes(upgrade_request.replace(b"/graphql", b"/agent"), random)
            case 2:
                data = upgrade_request + random.randbytes(random.randint(1, 3000))
            case _:
                data = b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * random.choice([1, 200, 20_000])
        await wire.send(data)
        seen = await wire.drain(random.choice([0.01, 0.2]))
        attack.done["raw"] += 1
        if b"HTTP/1.1 500" in seen:
            attack.bad.append(f"{data[:2000]!r} -> {seen[-2000:]!r}")


ATTACKS: Final = (http, viewer, viewer, agent, agent, raw)


async def _read(wire: Wire, attack: Attack) -> None:
    """Everything the server says, as long as it does."""
    try:
        while (received := await wire.receive_frame()) is not None:
            opcode, payload = received
            if opcode == PING:
                await wire.send_frame(payload, opcode=PONG)
            if opcode == CLOSE and payload[:2] in (b"\x03\xf3", b"\x11\x94"):
                # 1011 and 4500: the server's own fault.
                attack.bad.append(f"closed with {payload!r}")
            if b'"INTERNAL"' in payload:
                attack.bad.append(payload[:2000].decode(errors="replace"))
    except TimeoutError:
        pass


async def _open(wire: Wire, link: AgentLink, random: Random) -> bool:
    """The agent's side of the handshake, now and then with a flaw."""
    while link.state is not AgentState.OPEN:
        received = await wire.receive_frame()
        if received is None or received[0] == CLOSE:
            return False
        link.receive(received[1], now=time.monotonic(), clock=now_ms())
        for message in link.take_frames():
            flawed = random.random() < 0.05
            await wire.send_frame(
                _mutated_message(message, random) if flawed else message, opcode=BINARY
            )
    return True


def _mutated_message(message: bytes, random: Random) -> bytes:
    chance = random.random()
    if chance < 0.15:
        return mutated_bytes(message, random)
    if chance < 0.4:
        try:
            return msgspec.msgpack.encode(mutated_tree(msgspec.msgpack.decode(message), random))
        except (UnicodeEncodeError, OverflowError):
            return message[:-1]
    return message


async def _send_strangely(wire: Wire, payload: bytes, opcode: int, random: Random) -> None:
    """In one frame mostly; else in pieces, with pings between, or in a way that is not allowed."""
    chance = random.random()
    if chance < 0.8:
        await wire.send_frame(payload, opcode=opcode)
    elif chance < 0.9:
        cut = random.randint(0, len(payload))
        await wire.send_frame(payload[:cut], opcode=opcode, final=False)
        await wire.send_frame(b"between", opcode=PING)
        await wire.send_frame(payload[cut:], opcode=0)
    elif chance < 0.93:
        await wire.send_frame(payload + bytes(random.choice([65_536, 300_000])), opcode=opcode)
    elif chance < 0.96:
        await wire.send_frame(payload, opcode=random.choice([0, 1, 2, 3, 7, 8, 9, 10, 11, 15]))
    elif chance < 0.98:
        await wire.send_frame(payload, opcode=opcode, reserved=random.randint(1, 7))
    else:
        await wire.send(random.randbytes(random.randint(1, 200)))


async def _leave(wire: Wire, random: Random) -> None:
    match random.randrange(4):
        case 0:
            await wire.send_frame(b"\x03\xe8bye", opcode=CLOSE)
        case 1:
            await wire.send_frame(random.randbytes(random.choice([1, 2, 130])), opcode=CLOSE)
        case 2:
            await wire.send_frame(b"half", final=False)
            wire.cut()
        case _:
            wire.cut()
