"""Hand-made instruments: a clock that is wound by hand, a host's key, and a wire in memory."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from remotegpu_protocol.agent_link import AgentLink, AgentState, Opening
from remotegpu_protocol.errors import ProtocolError
from remotegpu_protocol.inventory import GpuInventory, HostInventory, Inventory
from remotegpu_protocol.keys import verify_enroll, verify_hello
from remotegpu_protocol.limits import HEARTBEAT_INTERVAL, LINK_SILENCE, SAMPLE_INTERVAL
from remotegpu_protocol.messages import Enroll, FromAgent, FromServer, Hello
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess, HostMetrics, Metrics
from remotegpu_protocol.openings import connecting, enrolling
from remotegpu_protocol.server_link import ServerLink, ServerState

ORIGIN = "https://gpu.example.org"
MACHINE = "mach_0123456789"
NONCE = bytes(range(32))
HOUR_MS = 3_600_000


@dataclass
class HandClock:
    """Monotonic seconds and wall-clock milliseconds; they move only when told to."""

    now: float = 1000.0
    wall: int = 1_800_000_000_000

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.wall += round(seconds * 1000)


class HostKey:
    """A signer whose key comes from a seed, so that every run signs the same."""

    def __init__(self, seed: int = 1) -> None:
        self._private = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)

    @property
    def public_key(self) -> bytes:
        return self._private.public_key().public_bytes_raw()

    def sign(self, statement: bytes) -> bytes:
        return self._private.sign(statement)


def hello_opening(key: HostKey | None = None, *, origin: str = ORIGIN) -> Opening:
    return connecting(
        key or HostKey(), machine_id=MACHINE, origin=origin, agent_version="1.0", boot_id="boot-1"
    )


def enroll_opening(key: HostKey | None = None) -> Opening:
    return enrolling(
        key or HostKey(),
        token="one-time-token",
        origin=ORIGIN,
        agent_version="1.0",
        hostname="node-1",
        hardware_uuid=None,
    )


def inventory(revision: int = 1) -> Inventory:
    gpu = GpuInventory(index=0, uuid="GPU-0", model="NVIDIA H100", memory_total=80 * 2**30)
    return Inventory(revision=revision, host=HostInventory(hostname="node-1"), gpus=[gpu])


def sample(at: int, *, gpus: int = 1, processes: int = 1) -> Metrics:
    running = [
        GpuProcess(pid, "/opt/venv/bin/python3 train.py --epochs 100", "alice", 2**30)
        for pid in range(100, 100 + processes)
    ]
    return Metrics(
        sampled_at=at,
        host=HostMetrics(cpu_utilization=12.5, memory_used=2**30),
        gpus=[
            GpuMetrics(index, f"GPU-{index}", utilization=97.0, processes=running)
            for index in range(gpus)
        ],
    )


@dataclass
class Wire:
    """Both ends and a lossless channel between them, with the smallest shells that serve.

    The host's wall clock is `skew` milliseconds ahead of the control plane's. `to_agent` and
    `to_server` record every frame that was delivered, with the time.
    """

    opening: Opening = field(default_factory=hello_opening)
    public_key: bytes = HostKey().public_key
    origins: tuple[str, ...] = (ORIGIN,)
    nonce: bytes = NONCE
    skew: int = 0
    acknowledge: bool = True
    heartbeat_interval: float = HEARTBEAT_INTERVAL
    link_silence: float = LINK_SILENCE
    sample_interval: float = SAMPLE_INTERVAL
    jitter: Callable[[], float] = lambda: 0.5
    clock: HandClock = field(default_factory=HandClock)
    to_agent: list[tuple[float, bytes]] = field(default_factory=list)
    to_server: list[tuple[float, bytes]] = field(default_factory=list)
    agent_heard: list[FromServer] = field(default_factory=list)
    server_heard: list[FromAgent] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.agent = AgentLink(self.opening, now=self.clock.now, jitter=self.jitter)
        self.server = ServerLink(
            nonce=self.nonce, origins=self.origins, now=self.clock.now, clock=self.clock.wall
        )

    @property
    def agent_wall(self) -> int:
        return self.clock.wall + self.skew

    @property
    def open(self) -> bool:
        return self.agent.state is AgentState.OPEN and self.server.state is ServerState.OPEN

    def pump(self) -> "Wire":
        """Carry frames until neither end has one."""
        while (down := self.server.take_frames()) + (up := self.agent.take_frames()):
            for frame in down:
                self.deliver_to_agent(frame)
            for frame in up:
                self.deliver_to_server(frame)
        return self

    def deliver_to_agent(self, frame: bytes) -> None:
        self.to_agent.append((self.clock.now, frame))
        self.agent_heard += self.agent.receive(frame, now=self.clock.now, clock=self.agent_wall)

    def deliver_to_server(self, frame: bytes) -> None:
        self.to_server.append((self.clock.now, frame))
        message = self.server.receive(frame, now=self.clock.now, clock=self.clock.wall)
        if message is not None:
            self.server_heard.append(message)
            self._decide(message)

    def run(self, seconds: float) -> "Wire":
        """Let time pass, stopping wherever one end asked for a tick."""
        end = self.clock.now + seconds
        while True:
            self.pump()
            due = min(self.agent.next_tick(), self.server.next_tick())
            if due > end:
                self.clock.advance(end - self.clock.now)
                return self
            self.clock.advance(max(0.0, due - self.clock.now))
            self.agent.tick(now=self.clock.now, clock=self.agent_wall)
            self.server.tick(now=self.clock.now)

    def _decide(self, message: FromAgent) -> None:
        match message:
            case Hello() | Enroll():
                try:
                    self._admit(message)
                except ProtocolError as error:
                    self.server.refuse(error)
            case Inventory() if self.acknowledge:
                self.server.acknowledge_inventory(message.revision)
            case _:
                pass

    def _admit(self, message: Hello | Enroll) -> None:
        if isinstance(message, Enroll):
            verify_enroll(message, nonce=self.nonce)
            self.server.enrolled(machine_id=MACHINE, machine_name="node-1")
            return
        verify_hello(message, public_key=self.public_key, nonce=self.nonce)
        self.server.welcome(
            epoch=7,
            machine_name="node-1",
            clock=self.clock.wall,
            heartbeat_interval=self.heartbeat_interval,
            link_silence=self.link_silence,
            sample_interval=self.sample_interval,
        )
