"""GPUs through NVML, read by a worker process that may hang or die at any time."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Final

import structlog

from remotegpu_agent.sources.gpu_register import GpuRegister
from remotegpu_agent.sources.nvml_process import NvmlProcess, WorkerFailed
from remotegpu_agent.sources.nvml_wire import (
    DriverLost,
    InventoryReply,
    InventoryRequest,
    Remark,
    Reply,
    SampleReply,
    SampleRequest,
)
from remotegpu_agent.sources.settings import SettingsReply, Tuning
from remotegpu_agent.sources.source import DriverReport, untuned
from remotegpu_agent.sources.xids import describe_xid
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import DriverState, GpuHealth
from remotegpu_protocol.metrics import GpuMetrics

_log = structlog.get_logger("remotegpu_agent.nvml")

#: Failures in a row from which on the cards count as lost, and not as slow.
_FAILURES_UNHEALTHY: Final = 3


@dataclass(frozen=True, slots=True)
class NvmlTimes:
    """Seconds."""

    sample_timeout: float = 5.0
    #: Initialising takes seconds where no persistence daemon keeps the driver loaded.
    init_timeout: float = 20.0
    #: Between attempts to find a driver, or a card that is lost.
    driver_retry: float = 30.0
    #: Before a worker that failed is started again, doubled with each failure up to the cap.
    restart_first: float = 1.0
    restart_cap: float = 30.0


class NvmlSource:
    """A `GpuSource`. While the driver does not answer, its cards' samples are null at once.

    Where it does not answer for one card, the worker goes on with the others, until another
    worker has taken its place in the hope that it gets through.
    """

    def __init__(
        self, times: NvmlTimes | None = None, *, environment: dict[str, str] | None = None
    ) -> None:
        self.changed = asyncio.Event()
        self._times = times or NvmlTimes()
        self._process = NvmlProcess(environment)
        self._register = GpuRegister(self._times.sample_timeout)
        self._ailing = self._register.ailments()
        self._report = DriverReport(DriverState.ABSENT, "The driver has not been asked yet.")
        self._ready = False
        self._failures = 0
        #: When the driver may be asked again, and when it may look for its cards again.
        self._not_before = 0.0
        self._fresh_after = 0.0
        self._opening: asyncio.Task[None] | None = None
        self._environment = environment
        self._replacing: asyncio.Task[None] | None = None
        self._replacements = 0
        self._replace_after = 0.0
        self._retired: NvmlProcess | None = None
        self._remarked: set[tuple[str, str]] = set()

    @property
    def worker_pid(self) -> int | None:
        return self._process.pid

    async def start(self) -> None:
        self._open_when_due()

    async def inventory(self) -> DriverReport:
        if self._ready:
            await self._read_inventory()
        else:
            self._open_when_due()
            if self._opening is not None:
                await asyncio.wait({self._opening})
        report = self._report
        return DriverReport(
            report.driver_state,
            report.message,
            report.driver_version,
            report.cuda_version,
            self._register.inventory(),
        )

    async def sample(self) -> list[GpuMetrics]:
        if not self._ready:
            self._open_when_due()
            if self._opening is not None and not self._failures:
                # Usually it takes a moment, and then the first sample has GPUs in it.
                await asyncio.wait({self._opening}, timeout=self._times.sample_timeout)
        if not self._ready:
            return self._register.unread()
        limit = self._times.sample_timeout
        try:
            reply = await self._process.ask(SampleRequest(), limit=limit, patience=limit)
        except TimeoutError:
            # An inventory takes long; that has its own limit.
            return self._register.unread()
        except WorkerFailed as error:
            self._worker_failed(error)
            return self._register.unread()
        if isinstance(reply, SampleReply):
            return self._take_sample(reply)
        if isinstance(reply, DriverLost):
            await self._driver_failed(DriverState.FAILED, reply.message)
        return self._register.unread()

    async def tune(self, request: Tuning) -> SettingsReply:
        if not self._ready:
            await self.inventory()
        if not self._ready:
            return untuned(request, f"The driver does not work: {self._report.message}")
        try:
            reply = await self._process.ask(request, limit=self._times.init_timeout)
        except WorkerFailed as error:
            self._worker_failed(error)
            return untuned(request, str(error))
        if isinstance(reply, SettingsReply):
            return reply
        if isinstance(reply, DriverLost):
            await self._driver_failed(DriverState.FAILED, reply.message)
        return untuned(request, f"The driver does not work: {self._report.message}")

    async def close(self) -> None:
        tasks = [task for task in (self._opening, self._replacing) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._ready = False
        await self._process.stop()

    def _open_when_due(self) -> None:
        if self._opening is not None and not self._opening.done():
            return
        self._opening = None
        if not self._ready and time.monotonic() >= self._not_before:
            self._opening = asyncio.create_task(self._open(), name="nvml-open")

    async def _open(self) -> None:
        before = (self._report, self._register.inventory())
        await self._read_inventory()
        if before != (self._report, self._register.inventory()):
            self.changed.set()

    async def _read_inventory(self) -> None:
        now = time.monotonic()
        # A driver finds a card again only when it is initialised anew, which may take seconds.
        fresh = self._register.any_lost and now >= self._fresh_after
        if fresh or not self._ready:
            self._fresh_after = now + self._times.driver_retry
        try:
            reply = await self._process.ask(
                InventoryRequest(fresh=fresh), limit=self._times.init_timeout
            )
        except WorkerFailed as error:
            self._worker_failed(error)
            return
        if isinstance(reply, InventoryReply) and reply.state is DriverState.READY:
            self._take_inventory(reply)
        elif isinstance(reply, InventoryReply):
            await self._driver_failed(reply.state, reply.message or "")
        elif isinstance(reply, DriverLost):
            await self._driver_failed(DriverState.FAILED, reply.message)

    def _take_inventory(self, reply: InventoryReply) -> None:
        self._register.take_inventory(reply.gpus, reply.sick, reply.hung)
        if not self._failures:
            self._register.driver_well()
        self._remark(reply.remarks)
        self._note_health()
        report = DriverReport(
            DriverState.READY,
            _unidentified(reply, self._register),
            reply.driver_version,
            reply.cuda_version,
        )
        if not self._ready:
            _log.info("nvidia driver ready", driver=reply.driver_version, gpus=len(reply.gpus))
        self._report = report
        self._ready = True

    def _take_sample(self, reply: SampleReply) -> list[GpuMetrics]:
        unreadable = self._register.unreadable
        samples = self._register.take_sample(reply.gpus, reply.sick, reply.hung)
        self._register.take_xids(reply.xids)
        for event in reply.xids:
            error = describe_xid(event.xid, event.gpu_instance)
            _log.warning("gpu error", gpu=event.uuid, error=error)
        # Only now: a driver may tell what its cards are and hang when asked what they do.
        self._failures = 0
        self._register.driver_well()
        self._remark(reply.remarks)
        new = any(not self._register.knows(gpu.uuid) for gpu in reply.gpus)
        # What a card is has to be read again where it is new, and where it came back.
        back = unreadable - self._register.unreadable
        if self._note_health() or new or back:
            self.changed.set()
        if self._register.any_hung:
            self._replace_when_due()
        else:
            self._replacements = 0
        return samples

    def _replace_when_due(self) -> None:
        if self._replacing is not None and not self._replacing.done():
            return
        # One that cannot be killed is enough; more of them would fill the host.
        undead = self._retired is not None and self._retired.undead
        if time.monotonic() >= self._replace_after and not undead:
            self._replacing = asyncio.create_task(self._replace(), name="nvml-replace")

    async def _replace(self) -> None:
        """Put a worker that does not hang in place of one that does at a card."""
        pause = self._pause(self._replacements)
        self._replacements += 1
        self._replace_after = time.monotonic() + pause
        _log.warning("nvml worker replaced", hung=self._process.pid, next_in=pause)
        process = NvmlProcess(self._environment)
        reply: Reply | None = None
        with contextlib.suppress(WorkerFailed):
            # Whatever it says, the old one still has the other cards.
            reply = await process.ask(InventoryRequest(), limit=self._times.init_timeout)
        ready = isinstance(reply, InventoryReply) and reply.state is DriverState.READY
        if not ready or not self._ready:
            await process.stop()
            return
        self._retired, self._process = self._process, process
        await self._retired.retire()

    def _pause(self, failures: int) -> float:
        times = self._times
        return min(times.restart_cap, times.restart_first * float(2 ** min(failures, 16)))

    async def _driver_failed(self, state: DriverState, message: str) -> None:
        """The worker works, the driver does not. A library that is replaced is found only by a
        new process, so this one ends."""
        self._ready = False
        self._not_before = time.monotonic() + self._times.driver_retry
        report = DriverReport(state, clean_text(message, 2000))
        if report != self._report:
            # Many hosts have no GPU, and that is no fault.
            tell = _log.info if state is DriverState.ABSENT else _log.warning
            tell("nvidia driver not usable", state=state.value, reason=report.message)
            self._report = report
            self.changed.set()
        self._register.driver_gone(f"The driver failed: {report.message}")
        self._ailing = self._register.ailments()
        await self._process.stop()

    def _worker_failed(self, error: WorkerFailed) -> None:
        pause = self._pause(self._failures)
        self._failures += 1
        self._ready = False
        self._not_before = time.monotonic() + pause
        lost = self._failures >= _FAILURES_UNHEALTHY
        health = GpuHealth.UNHEALTHY if lost else GpuHealth.DEGRADED
        reason = clean_text(str(error), 500)
        self._register.driver_trouble(health, reason)
        self._ailing = self._register.ailments()
        was_ready = self._report.driver_state is DriverState.READY
        self._report = DriverReport(
            DriverState.READY if was_ready and not lost else DriverState.FAILED,
            reason,
            self._report.driver_version,
            self._report.cuda_version,
        )
        _log.warning("nvml worker failed", reason=reason, failures=self._failures, retry_in=pause)
        self.changed.set()

    def _note_health(self) -> bool:
        """Whether it is no longer what it was; logged, then."""
        before, after = self._ailing, self._register.ailments()
        if before == after:
            return False
        self._ailing = after
        ailing = {uuid: reason for uuid, (_, reason) in after.items()}
        if ailing:
            _log.warning("gpu health changed", unhealthy=ailing)
        else:
            _log.info("all gpus healthy again")
        return True

    def _remark(self, remarks: list[Remark]) -> None:
        for remark in remarks:
            if (remark.gpu, remark.field) not in self._remarked:
                self._remarked.add((remark.gpu, remark.field))
                _log.warning("nvml", gpu=remark.gpu, remark=remark.text)


def _unidentified(reply: InventoryReply, register: GpuRegister) -> str | None:
    """A card that is ill from the start has no UUID to be listed under."""
    known = {gpu.index for gpu in register.inventory()}
    reasons = {card.index: f"{card.reason}." for card in reply.sick}
    reasons |= {card.index: "The driver has not answered yet." for card in reply.hung}
    unknown = [f"GPU {index}: {why}" for index, why in reasons.items() if index not in known]
    return clean_text(" ".join(unknown), 2000) or None
