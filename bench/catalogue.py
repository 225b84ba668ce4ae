"""The benchmarks, the servers in them, and the ratios that RemoteGPU is to reach."""

from dataclasses import dataclass
from typing import Final, Literal

from bench.results import Benchmark, Quantity, Results

PRODUCT: Final = "RemoteGPU"
PRODUCT_ASGI: Final = "RemoteGPU, plain ASGI"
STRAWBERRY: Final = "Strawberry"
STARLETTE: Final = "bare Starlette"
GRAPHQL_WS: Final = "graphql-ws"
YOGA: Final = "graphql-yoga"
MERCURIUS: Final = "mercurius"
MERCURIUS_JIT: Final = "mercurius, JIT"
JSON_AWAITED: Final = "JSON, awaited"
IOREDIS: Final = "ws + ioredis"
NO_DECODING: Final = "no decoding"

_RATE = Quantity("messages/s", 0)
_CPU_MS = Quantity("CPU ms per 1,000", 2)
_BUSY = Quantity("core %", 0, is_compared=False)
_CLIENT_BUSY = Quantity("client %", 0, is_compared=False)
_ARRIVED = Quantity("stored, % of sent", 1, is_compared=False)
_CORE = Quantity("% of a core", 1)
_CPU_EVENT = Quantity("CPU ms an event", 1)
_P50, _P99 = Quantity("p50 ms", 1), Quantity("p99 ms", 1)
_ACCEPTED = Quantity("p99 ms to accepted", 1)
_SAMPLES = Quantity("samples/s", 0)
_CPU_US = Quantity("CPU us each", 1)
_RESIDENT = Quantity("RSS MiB", 0)
_REQUESTS = Quantity("requests/s", 0)
_CPU_EACH = Quantity("CPU ms each", 2)
_KIB = Quantity("KiB each", 1)
_MIB = Quantity("MiB", 1)

FANOUT: Final = Benchmark(
    "Fan-out, 500 equal subscribers, as fast as possible",
    "graphql-transport-ws, the contract's MachineMetrics document, one machine of 8 GPUs. The next "
    "event is published when half of the subscribers got the newest one. RemoteGPU writes whole "
    "frames to the transport; the second row is what it does where it may not.",
    (_RATE, _CPU_MS, _P99, _BUSY),
)
DASHBOARD: Final = Benchmark(
    "1,000 subscribers, one event a second",
    "The same subscription. Latency runs from PUBLISH to the last byte in the client.",
    (_CPU_EVENT, _P50, _P99),
)
INGEST: Final = Benchmark(
    "Ingest, 50 agents, as fast as possible",
    "Samples of 8 GPUs into Redis, each kept (SET with a lifetime) and published. RemoteGPU's "
    "links are signed and its limit of 30 messages a second and agent is lifted for this run. "
    "Counted by Redis.",
    (_SAMPLES, _CPU_US, _RESIDENT, _BUSY, _CLIENT_BUSY),
)
LINKS: Final = Benchmark(
    "Signed links, one sample a second each",
    "2,000 links that also beat every five seconds, beside 20 real agents of 8 simulated GPUs; "
    "RemoteGPU as it is. Stored counts the agents' samples too, sent does not.",
    (_SAMPLES, _CORE, _RESIDENT, _ARRIVED, _CLIENT_BUSY),
)
QUERY: Final = Benchmark(
    "Query, 100 machines of 8 GPUs with 10 latest metrics each",
    "About 185 kB of answer, four connections. RemoteGPU asks its database and Redis each time; "
    "the peers answer from their own memory.",
    (_REQUESTS, _CPU_EACH, _BUSY),
)
MEMORY: Final = Benchmark(
    "Memory of an idle subscriber",
    "Growth of the server's resident memory, divided by the subscribers that came.",
    (_KIB,),
)
AGENT: Final = Benchmark(
    "The agent's own cost, 8 GPUs at one sample a second",
    "The agent and its NVML child on a stub of the driver. Memory counts shared pages once.",
    (_CORE, _MIB),
)

DISPATCH: Final = Benchmark(
    "Dispatch, 50 commands a second to 200 agents",
    "From the commit, in another process, until the agent has the command, and until the server has "
    "applied and acknowledged its acceptance. SQLite; agents that write no journal.",
    (_P50, _P99, _ACCEPTED),
)

ALL: Final = (FANOUT, DASHBOARD, INGEST, LINKS, QUERY, MEMORY, AGENT, DISPATCH)


@dataclass(frozen=True, slots=True)
class Target:
    """A bound on RemoteGPU's median, over a peer's or (`peer` None) by itself.

    `server` is RemoteGPU or a variant of it.

    `above` subtracts the peer instead of dividing by it. `cost` is the processor time behind a
    rate: the ratio of costs, turned over, is what the ratio of rates would be on a machine where
    each server has its core to itself.
    """

    benchmark: Benchmark
    quantity: Quantity
    bound: float
    sense: Literal[">=", "<="]
    peer: str | None = None
    above: bool = False
    cost: Quantity | None = None
    server: str = PRODUCT

    @property
    def text(self) -> str:
        which = "" if self.server == PRODUCT else f"{self.server}: "
        bound = f"{which}{self.quantity.name} {self.sense} {self.bound:.3g}"
        if self.peer is None:
            return bound
        return f"{bound} above {self.peer}" if self.above else f"{bound}x {self.peer}"

    def measured(self, results: Results) -> float | None:
        own = results.median(self.benchmark, self.server, self.quantity)
        if self.peer is None or own is None:
            return own
        other = results.median(self.benchmark, self.peer, self.quantity)
        if other is None:
            return None
        return (
            own - other
            if self.above
            else results.ratio(self.benchmark, self.quantity, self.server, self.peer)
        )

    def by_cost(self, results: Results) -> float | None:
        if self.cost is None or self.peer is None:
            return None
        ratio = results.ratio(self.benchmark, self.cost, self.server, self.peer)
        return 1 / ratio if ratio else None

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.sense == ">=" else value <= self.bound


TARGETS: Final = (
    Target(FANOUT, _RATE, 30, ">=", STRAWBERRY, cost=_CPU_MS),
    Target(FANOUT, _RATE, 6, ">=", GRAPHQL_WS, cost=_CPU_MS),
    Target(FANOUT, _CPU_MS, 1, "<=", STARLETTE),
    Target(FANOUT, _RATE, 20, ">=", STRAWBERRY, cost=_CPU_MS, server=PRODUCT_ASGI),
    Target(FANOUT, _RATE, 4, ">=", GRAPHQL_WS, cost=_CPU_MS, server=PRODUCT_ASGI),
    Target(FANOUT, _CPU_MS, 1.5, "<=", STARLETTE, server=PRODUCT_ASGI),
    Target(DASHBOARD, _CPU_EVENT, 1 / 12, "<=", STRAWBERRY),
    Target(DASHBOARD, _P99, 1 / 10, "<=", STRAWBERRY),
    Target(DASHBOARD, _P99, 1 / 2.5, "<=", GRAPHQL_WS),
    Target(DASHBOARD, _P99, 1.5, "<=", STARLETTE),
    Target(INGEST, _SAMPLES, 6, ">=", JSON_AWAITED, cost=_CPU_US),
    Target(INGEST, _SAMPLES, 1.3, ">=", IOREDIS, cost=_CPU_US),
    Target(INGEST, _CPU_US, 1.6, "<=", NO_DECODING),
    Target(INGEST, _RESIDENT, 150, "<="),
    Target(LINKS, _CORE, 15, "<="),
    Target(QUERY, _REQUESTS, 12, ">=", STRAWBERRY, cost=_CPU_EACH),
    Target(QUERY, _REQUESTS, 2, ">=", YOGA, cost=_CPU_EACH),
    Target(MEMORY, _KIB, 1, "<=", STRAWBERRY),
    Target(MEMORY, _KIB, 1.2, "<=", GRAPHQL_WS),
    Target(MEMORY, _KIB, 12, "<=", STARLETTE, above=True),
    Target(AGENT, _CORE, 1, "<="),
    Target(AGENT, _MIB, 70, "<="),
    Target(DISPATCH, _ACCEPTED, 250, "<="),
)
