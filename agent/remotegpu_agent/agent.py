"""The agent: keeps a link to the control plane, and tells it what the host is and does."""

import asyncio
import ssl
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Final

import structlog

from remotegpu_agent.backoff import Backoff, Pauses
from remotegpu_agent.commands.desk import CommandDesk
from remotegpu_agent.dial import Server, dial
from remotegpu_agent.errors import AgentError, CertificateRefused
from remotegpu_agent.host import boot_id
from remotegpu_agent.host_metrics import HostSampler
from remotegpu_agent.identity import Identity
from remotegpu_agent.inventory import CHECK_INTERVAL, InventoryReporter, Presented
from remotegpu_agent.link import Ending, Link
from remotegpu_agent.sampler import Sampler, SampleRate
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.status import StatusFile
from remotegpu_agent.tls import client_context
from remotegpu_agent.version import agent_version
from remotegpu_protocol.agent_link import AgentLink
from remotegpu_protocol.close_codes import PERMANENT, CloseCode
from remotegpu_protocol.commands import Cancel, Command, EventAck
from remotegpu_protocol.errors import ProtocolError
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.messages import Error, FromServer, WatchRate, Welcome
from remotegpu_protocol.metrics import Metrics
from remotegpu_protocol.openings import connecting

_log = structlog.get_logger("remotegpu_agent")

#: Seconds before a duty that failed in a way that nobody foresaw is taken up again.
_AFTER_ERROR: Final = 5.0

_ADVICE: Final[dict[int, str]] = {
    CloseCode.UNAUTHENTICATED: (
        "The control plane does not accept this host. If the reason names another address, enrol "
        "with that one; if the key is refused, get a new token and run: remotegpu-agent enroll "
        "--replace"
    ),
    CloseCode.REVOKED: (
        "This host's key was revoked or its machine removed. To bring it back, get a new token "
        "and run: remotegpu-agent enroll --replace"
    ),
    CloseCode.VERSION_MISMATCH: (
        "Agent and control plane share no protocol version: upgrade the older of the two."
    ),
    CloseCode.SUPERSEDED: (
        "Another agent connected with this host's key. If that keeps happening, two hosts use one "
        "state directory or a copy of it: enrol one of them again with --replace."
    ),
    CloseCode.OVERLOADED: "The control plane has all the links that it may have.",
}


@dataclass(frozen=True, slots=True)
class AgentTimes:
    """Seconds; tests make them short."""

    pauses: Pauses = field(default_factory=Pauses)
    inventory_check: float = CHECK_INTERVAL


class Agent:
    """One host's agent. `run` serves until it is cancelled."""

    def __init__(
        self,
        identity: Identity,
        source: GpuSource,
        status: StatusFile,
        desk: CommandDesk,
        *,
        presented: Presented | None = None,
        proxy: str | None = None,
        times: AgentTimes | None = None,
    ) -> None:
        times = times or AgentTimes()
        self._identity = identity
        self._source = source
        self._status = status
        self._desk = desk
        self._server = Server(identity.origin, identity.ca_file, proxy)
        self._backoff = Backoff(times.pauses)
        self._sampler = Sampler(source, HostSampler())
        self._reporter = InventoryReporter(
            source,
            presented=presented,
            policy=desk.policy,
            isolation=None if desk.access is None else desk.access.settle,
            readiness=desk.readiness,
            records=desk.damaged_records,
            holdings=desk.holdings,
            interval=times.inventory_check,
        )
        self._tls: ssl.SSLContext | None = None
        self._said: dict[str, str] = {}

    async def run(self) -> None:
        """Keep a link, until cancelled; then end it politely, and the source with it."""
        tasks = [
            asyncio.create_task(self._keep_linked(), name="link"),
            asyncio.create_task(self._keep_status(), name="status"),
            asyncio.create_task(self._desk.run(), name="commands"),
        ]
        if self._desk.access is not None:
            keeping = _persistently(self._desk.access.run, "GPU permissions")
            tasks.append(asyncio.create_task(keeping, name="gpu-access"))
        if self._desk.reserve is not None:
            keeping = _persistently(self._desk.reserve.run, "keeping room on the disk")
            tasks.append(asyncio.create_task(keeping, name="reserve"))
        if self._desk.readiness is not None:
            keeping = _persistently(self._desk.readiness.run, "looking what cleaning could prove")
            tasks.append(asyncio.create_task(keeping, name="readiness"))
        if self._desk.datasets is not None:
            keeping = _persistently(self._desk.datasets.run, "keeping data sets mounted")
            tasks.append(asyncio.create_task(keeping, name="datasets"))
        try:
            # None ends by itself; an error in any ends the agent, and is seen.
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            # Ended together: a peer or a driver that does not answer must not delay the other.
            await asyncio.gather(*tasks, self._source.close(), return_exceptions=True)
            self._status.stopped()

    async def _keep_linked(self) -> None:
        await self._source.start()
        while True:
            await self._connect_once()

    async def _connect_once(self) -> None:
        """One attempt, the link that it leads to, and the pause after it."""
        self._status.connecting()
        try:
            link, announced = await self._dial()
        except (AgentError, ProtocolError) as error:
            await self._pause(error.message, permanent=False)
            return
        ending = await self._serve(link, announced=announced)
        advice = _ADVICE.get(ending.code)
        _log.warning(
            "link ended",
            code=ending.code,
            reason=clean_text(ending.reason, 500),
            **({"todo": advice} if advice else {}),
        )
        reason = f"{clean_text(ending.reason, 500)} {advice or ''}".strip()
        await self._pause(
            reason,
            permanent=ending.code in PERMANENT,
            retry_after=ending.retry_after,
            logged=True,
        )

    async def _dial(self) -> tuple[Link, bool]:
        """A new connection, and whether its hello names a journal of commands."""
        if self._tls is None and self._identity.origin.startswith("https:"):
            self._tls = client_context(self._identity.ca_file)
        try:
            websocket = await dial(self._server, self._tls)
        except CertificateRefused:
            # Whoever renews an authority should not have to restart every agent.
            self._tls = None
            raise
        journal = await self._desk.announcement()
        opening = connecting(
            self._identity.key,
            machine_id=self._identity.machine_id,
            origin=self._identity.origin,
            agent_version=agent_version(),
            boot_id=boot_id(),
            journal_id=None if journal is None else journal.journal_id,
            last_sequence=None if journal is None else journal.last_sequence,
            acknowledged_sequence=None if journal is None else journal.acknowledged,
        )
        link = Link(websocket, AgentLink(opening, now=time.monotonic()))
        return link, journal is not None

    async def _serve(self, link: Link, *, announced: bool) -> Ending:
        """Serve one connection; what hangs on it ends with it."""
        reporting: list[asyncio.Task[None]] = []
        rate: SampleRate | None = None

        def take(message: FromServer) -> None:
            nonlocal rate
            match message:
                case Welcome():
                    rate = SampleRate(message.sample_interval)
                    reporting.extend(self._report(link, rate))
                    events = self._desk.serve(link, announced=announced)
                    reporting.append(asyncio.create_task(events, name="events"))
                    self._welcomed(message)
                case WatchRate() if rate is not None:
                    rate.watch(interval=message.interval, lease=message.lease, now=time.monotonic())
                    _log.debug("watch rate", interval=message.interval, lease=message.lease)
                case Command() | Cancel() | EventAck():
                    self._desk.take(message, link)
                case Error() if not message.fatal:
                    _log.warning("control plane says", code=message.code, message=message.message)
                case _:
                    pass

        try:
            return await link.run(take)
        finally:
            for task in reporting:
                task.cancel()
            await asyncio.gather(*reporting, return_exceptions=True)

    def _report(self, link: Link, rate: SampleRate) -> list[asyncio.Task[None]]:
        def send_metrics(metrics: Metrics) -> None:
            try:
                link.send_metrics(metrics)
            except ProtocolError as error:
                self._say_once("sample not sent", error.message)
            else:
                self._status.sampled(metrics.sampled_at / 1000)

        def send_inventory(inventory: Inventory) -> None:
            try:
                link.send_inventory(inventory)
            except ProtocolError as error:
                self._say_once("inventory not sent", error.message)
            self._status.inventoried(
                driver=inventory.host.driver_state.value, gpus=len(inventory.gpus)
            )

        def sampling() -> Coroutine[None, None, None]:
            return self._sampler.run(send_metrics, rate)

        def reporting() -> Coroutine[None, None, None]:
            return self._reporter.run(send_inventory, dialled_from=link.local_address)

        return [
            asyncio.create_task(_persistently(sampling, "sampling"), name="sampler"),
            asyncio.create_task(_persistently(reporting, "inventory"), name="inventory"),
        ]

    def _welcomed(self, welcome: Welcome) -> None:
        self._backoff.succeeded(spread=welcome.retry_spread or 0.0)
        self._status.connected(welcome.epoch)
        self._said.clear()
        _log.info(
            "connected",
            server=self._identity.origin,
            machine=welcome.machine_name,
            epoch=welcome.epoch,
        )

    async def _pause(
        self,
        reason: str,
        *,
        permanent: bool,
        retry_after: float | None = None,
        logged: bool = False,
    ) -> None:
        pause = self._backoff.next_pause(permanent=permanent, retry_after=retry_after)
        self._status.waiting(reason)
        if not logged:
            self._say_once("not connected", reason)
        _log.debug("waiting", seconds=round(pause, 2))
        await asyncio.sleep(pause)

    def _say_once(self, event: str, reason: str) -> None:
        # A control plane that is away for a night should not fill the journal with one line.
        if self._said.get(event) != reason:
            self._said[event] = reason
            _log.warning(event, reason=reason)

    async def _keep_status(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._status.commanded(await self._desk.summary())
            self._status.flush()


async def _persistently(duty: Callable[[], Coroutine[None, None, None]], what: str) -> None:
    """A mistake in one duty must not end the others, nor go unseen."""
    while True:
        try:
            await duty()
        except Exception:  # noqa: BLE001 - logged with its traceback, and the duty is taken up again
            _log.exception("internal error", during=what)
            await asyncio.sleep(_AFTER_ERROR)
