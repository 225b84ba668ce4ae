"""One run: every benchmark on every server, fan-out first."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from bench import catalogue, ingest
from bench.agent_cost import measure_agent
from bench.dispatch import AGENTS, measure_dispatch
from bench.fanout import LiveServer, live_peer, live_product, measure
from bench.links import Window
from bench.memory import kib_per_subscriber
from bench.node import NoNode, install_node_peers, node_program
from bench.plan import Plan, Timing
from bench.product import REAL_AGENTS, Product, running_product
from bench.query import ask
from bench.results import Results
from bench.server import python_module
from bench.viewers import LoadFailed, Viewers
from bench.workspace import Workspace
from tests.services.process import ServerFailed

Say = Callable[[str], None]
Live = Callable[[], AbstractContextManager[LiveServer]]


class Run:
    """Collects `results`; a server that fails is noted there, and the others go on."""

    def __init__(self, workspace: Workspace, plan: Plan, say: Say) -> None:
        self.results = Results()
        self._workspace = workspace
        self._plan = plan
        self._say = say
        self._node = self._has_node()

    def everything(self) -> None:
        plan = self._plan
        for number in range(1, plan.rounds + 1):
            self._say(f"Round {number} of {plan.rounds}")
            live = self._live_servers()
            for name, start in live.items():
                self._attempt("Viewers", name, partial(self._live, name, start))
                if name == catalogue.PRODUCT:
                    self._attempt(catalogue.FANOUT.name, catalogue.PRODUCT_ASGI, self._plain_fanout)
            for name, work in self._ingest_servers().items():
                self._attempt(catalogue.INGEST.name, name, partial(self._ingest, name, work))
            for name, start in live.items():
                if self._remembers(name):
                    self._attempt(catalogue.MEMORY.name, name, partial(self._memory, name, start))
        if plan.signed_links:
            self._attempt(catalogue.LINKS.name, catalogue.PRODUCT, self._links)
        self._attempt("Hosts", catalogue.PRODUCT, self._hosts)

    def _remembers(self, name: str) -> bool:
        """Whether the server's memory is measured: in a quick run only RemoteGPU's and the floor's."""
        if self._plan.all_peers:
            return name != catalogue.MERCURIUS_JIT
        return name in (catalogue.PRODUCT, catalogue.STARLETTE)

    def _has_node(self) -> bool:
        try:
            install_node_peers()
        except NoNode as reason:
            self.results.failures.append(str(reason))
            return False
        return True

    def _attempt(self, what: str, server: str, work: Callable[[], None]) -> None:
        begun = time.monotonic()
        try:
            work()
        except (LoadFailed, ServerFailed) as error:
            self._say(f"  {what}: {server}: failed: {error}")
            self.results.failures.append(f"{what}: {server}: {error}")
        else:
            self._say(f"  {what}: {server}: {time.monotonic() - begun:.0f} s")

    def _live_servers(self) -> dict[str, Live]:
        space = self._workspace
        servers: dict[str, Live] = {
            catalogue.PRODUCT: partial(live_product, space),
            catalogue.STRAWBERRY: self._peer(
                catalogue.STRAWBERRY, python_module("bench.peers.strawberry_server")
            ),
            catalogue.STARLETTE: self._peer(
                catalogue.STARLETTE, python_module("bench.peers.starlette_server")
            ),
        }
        if self._node:
            servers[catalogue.GRAPHQL_WS] = self._peer(
                catalogue.GRAPHQL_WS, node_program("graphql_ws")
            )
            if self._plan.all_peers:
                servers[catalogue.YOGA] = self._peer(catalogue.YOGA, node_program("yoga"))
                servers[catalogue.MERCURIUS] = self._peer(
                    catalogue.MERCURIUS, node_program("mercurius")
                )
                servers[catalogue.MERCURIUS_JIT] = self._peer(
                    catalogue.MERCURIUS_JIT, node_program("mercurius"), BENCH_JIT="1"
                )
        return servers

    def _peer(self, name: str, command: list[str | Path], **variables: str) -> Live:
        return partial(live_peer, self._workspace, name, command, **variables)

    def _plain_fanout(self) -> None:
        with live_product(self._workspace, frame_path=False) as live:
            self._fanout(catalogue.PRODUCT_ASGI, live)

    def _fanout(self, name: str, live: LiveServer) -> None:
        plan = self._plan
        for window in measure(
            self._workspace, live, Viewers(500, plan.timing(plan.fanout_seconds))
        ):
            values = (window.rate, window.cpu_ms, window.p99_ms, window.busy)
            self.results.add(catalogue.FANOUT, name, values)

    def _live(self, name: str, start: Live) -> None:
        """Everything that viewers ask of one server, fan-out first."""
        plan, space = self._plan, self._workspace
        steady = Viewers(1000, plan.timing(plan.dashboard_seconds), rate=1)
        with start() as live:
            self._fanout(name, live)
            for window in measure(space, live, steady):
                self.results.add(
                    catalogue.DASHBOARD,
                    name,
                    (1000 * window.server_cpu / window.events, window.p50_ms, window.p99_ms),
                )
            for answers in ask(
                space, live.server, token=live.token, timing=plan.timing(plan.query_seconds)
            ):
                self.results.add(
                    catalogue.QUERY, name, (answers.rate, answers.cpu_ms, answers.busy)
                )

    def _ingest_servers(self) -> dict[str, Callable[[], list[Window]]]:
        timing = self._plan.timing(self._plan.ingest_seconds)
        peer = partial(ingest.flood_peer, self._workspace, timing=timing)
        servers: dict[str, Callable[[], list[Window]]] = {
            catalogue.PRODUCT: partial(ingest.flood_product, self._workspace, timing),
            catalogue.JSON_AWAITED: partial(
                peer,
                catalogue.JSON_AWAITED,
                python_module("bench.peers.ingest_json"),
                as_json=True,
            ),
            catalogue.NO_DECODING: partial(
                peer,
                catalogue.NO_DECODING,
                python_module("bench.peers.ingest_floor"),
                as_json=False,
            ),
        }
        if self._node:
            servers[catalogue.IOREDIS] = partial(
                peer, catalogue.IOREDIS, node_program("ingest"), as_json=True
            )
        return servers

    def _ingest(self, name: str, work: Callable[[], list[Window]]) -> None:
        for window in work():
            values = (
                window.rate,
                window.cpu_us,
                window.resident_kib / 1024,
                window.busy,
                window.client_busy,
            )
            self.results.add(catalogue.INGEST, name, values)

    def _memory(self, name: str, start: Live) -> None:
        plan = self._plan
        with start() as live:
            for each in kib_per_subscriber(
                self._workspace, live, plan.idle_subscribers, plan.windows
            ):
                self.results.add(catalogue.MEMORY, name, (each,))

    def _links(self) -> None:
        plan = self._plan
        for window in ingest.steady_product(
            self._workspace,
            plan.signed_links,
            # Every link beats within five seconds.
            Timing(5, 2 * plan.ingest_seconds, 3),
            agents=REAL_AGENTS,
        ):
            values = (
                window.rate,
                window.busy,
                window.resident_kib / 1024,
                100 * window.stored / max(1, window.sent),
                window.client_busy,
            )
            self.results.add(catalogue.LINKS, catalogue.PRODUCT, values)

    def _hosts(self) -> None:
        """What one real agent costs, and how soon many simulated ones have their commands."""
        with running_product(self._workspace, hosts=AGENTS) as product:
            for benchmark, work in (
                (catalogue.AGENT, self._agent),
                (catalogue.DISPATCH, self._dispatch),
            ):
                self._attempt(benchmark.name, catalogue.PRODUCT, partial(work, product))

    def _agent(self, product: Product) -> None:
        for cost in measure_agent(
            self._workspace, product, seconds=self._plan.agent_seconds, windows=3
        ):
            self.results.add(catalogue.AGENT, catalogue.PRODUCT, (cost.cpu, cost.memory))

    def _dispatch(self, product: Product) -> None:
        seconds = self._plan.dispatch_seconds
        for told in measure_dispatch(self._workspace, product, seconds=seconds, windows=3):
            values = (
                told.percentile(told.arrived, 0.5),
                told.percentile(told.arrived, 0.99),
                told.percentile(told.accepted, 0.99),
            )
            self.results.add(catalogue.DISPATCH, catalogue.PRODUCT, values)
