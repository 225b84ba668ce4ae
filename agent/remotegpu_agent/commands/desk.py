"""Where commands come in and events go out: the one thing that the rest of the agent talks to."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from remotegpu_agent.commands.admission import Handlers, expiry, refusal
from remotegpu_agent.commands.clock import ControlClock
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.host_records import HostRecords
from remotegpu_agent.commands.journal import Journal
from remotegpu_agent.commands.moments import Witness, nobody
from remotegpu_agent.commands.outbox import Outbox
from remotegpu_agent.commands.policy import LocalPolicy, PolicySource
from remotegpu_agent.commands.records import CancelReceipt, Counts, Receipt, Record, RecordState
from remotegpu_agent.commands.runner import Runner
from remotegpu_agent.datasets.keeper import DatasetKeeper
from remotegpu_agent.errors import JournalError, StateDirectoryError
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.link import Link, wall_clock
from remotegpu_agent.reclaim.readiness import Readiness
from remotegpu_agent.reserve import Reserve
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import CommandStatus
from remotegpu_protocol.commands import Cancel, Command, EventAck
from remotegpu_protocol.limits import COMMAND_WINDOW, EVENT_RETRY

_log = structlog.get_logger("remotegpu_agent")

FILE: Final = "journal.db"

#: Messages that wait to be written down; the control plane sends again what finds no room.
_MAX_INBOX: Final = 4 * COMMAND_WINDOW
#: Milliseconds by which the control plane's clock moves before that is stored.
_CLOCK_MOVED: Final = 1000

Message = Command | Cancel | EventAck


@dataclass(frozen=True, slots=True)
class DeskTimes:
    """Seconds; tests make them short."""

    event_retry: float = EVENT_RETRY
    #: Between attempts to open a journal that cannot be.
    reopen: float = 10.0
    #: Between two times that old commands are forgotten.
    tidy: float = 3600.0


@dataclass(frozen=True, slots=True)
class Announcement:
    """A journal as a hello names it: the last event in it, and the last that is acknowledged."""

    journal_id: str
    last_sequence: int
    acknowledged: int


class _Office:
    """What there is while the journal is open."""

    def __init__(self, journal: Journal, outbox: Outbox, runner: Runner) -> None:
        self.journal = journal
        self.outbox = outbox
        self.runner = runner


class CommandDesk:
    """Takes commands from whichever link there is; the work outlives links.

    `run` serves until cancelled, beside the links; `serve` belongs to one link. Without a journal
    nothing is taken on, and whoever sends a command is told why.
    """

    def __init__(
        self,
        directory: StateDirectory,
        handlers: Handlers,
        policy: PolicySource,
        *,
        disk: DiskThread | None = None,
        access: GpuAccess | None = None,
        readiness: Readiness | None = None,
        reserve: Reserve | None = None,
        datasets: DatasetKeeper | None = None,
        times: DeskTimes | None = None,
        witness: Witness = nobody,
    ) -> None:
        #: Who may open which GPUs; None on a host that only pretends.
        self.access = access
        #: Whether the end of an allocation could be proven; None on such a host, too.
        self.readiness = readiness
        #: Who mounts again what was mounted; None on such a host, too.
        self.datasets = datasets
        self._directory = directory
        #: Room that is kept for what has to be written on a full disk; None on such a host, too.
        self.reserve = reserve
        self._handlers = handlers
        self._policy = policy
        self._records = HostRecords(directory)
        self._disk = disk or DiskThread()
        self._times = times or DeskTimes()
        self._witness = witness
        self._clock = ControlClock()
        self._inbox: asyncio.Queue[tuple[Message, Link]] = asyncio.Queue(_MAX_INBOX)
        self._opening = asyncio.Lock()
        self._opened = asyncio.Event()
        self._office: _Office | None = None
        self._trouble: str | None = None
        self._counts = Counts()

    async def announcement(self) -> Announcement | None:
        """For the hello; None without a journal."""
        office = await self._open()
        if office is None:
            return None
        journal = office.journal
        return Announcement(journal.journal_id, journal.last_sequence, journal.acknowledged)

    async def policy(self) -> LocalPolicy:
        """For the inventory."""
        return await self._disk(self._policy.read)

    async def damaged_records(self) -> str | None:
        """For the inventory: why the agent does not know any more which allocation has the host."""
        return await self._disk(self._records.trouble)

    async def holdings(self) -> list[str]:
        """For the inventory: the allocations whose end this host was not told."""
        return await self._disk(self._records.holdings)

    async def summary(self) -> CommandStatus:
        """For the status."""
        policy = await self._disk(self._policy.read)
        await self._try(self._count)
        return CommandStatus(
            allowed=sorted(policy.commands),
            waiting=self._counts.waiting,
            running=self._counts.begun,
            unacknowledged=self._counts.unacknowledged,
            trouble=self._trouble or policy.message,
            damaged=await self._disk(self._records.trouble),
        )

    def take(self, message: Message, link: Link) -> None:
        """Something came over this link."""
        with contextlib.suppress(asyncio.QueueFull):
            self._inbox.put_nowait((message, link))

    async def run(self) -> None:
        """Work until cancelled."""
        try:
            # Said at the start, and not when the first command fails on it.
            await self._disk(self._records.trouble)
            while await self._open() is None:
                await self._answer_for(self._times.reopen)
            tidied_at = time.monotonic()
            while True:
                await self._answer_for(self._times.tidy + tidied_at - time.monotonic())
                tidied_at = time.monotonic()
                await self._try(self._tidy)
        finally:
            office, self._office = self._office, None
            if office is not None:
                await office.runner.close()
                with contextlib.suppress(JournalError):
                    await self._disk(office.journal.close)
            self._disk.close()

    async def serve(self, link: Link, *, announced: bool) -> None:
        """Send events over this link, until cancelled. `announced`: its hello named a journal."""
        self._clock.follow(link.machine)
        if not announced:
            await self._opened.wait()
            await link.end("The journal of commands can be used again.")
            return
        office = await self._open()
        if office is None:
            return
        await self._try(self._store_clock)
        while True:
            try:
                await office.outbox.serve(link)
            except JournalError as error:
                self._in_trouble(error)
            await asyncio.sleep(self._times.reopen)

    async def _open(self) -> _Office | None:
        async with self._opening:
            if self._office is not None:
                return self._office
            try:
                journal, left = await self._disk(self._open_journal)
            except JournalError as error:
                self._in_trouble(error)
                return None
            outbox = Outbox(
                journal, self._disk, witness=self._witness, retry=self._times.event_retry
            )
            runner = Runner(
                journal,
                self._disk,
                self._handlers,
                self._policy,
                self._clock,
                written=outbox.wake,
            )
            self._clock.remember(journal.clock_offset)
            # What an earlier process left behind.
            for record in left:
                runner.submit(record)
            self._office = _Office(journal, outbox, runner)
            self._trouble = None
            self._opened.set()
            return self._office

    def _open_journal(self) -> tuple[Journal, list[Record]]:
        try:
            self._directory.check_file(FILE)
        except StateDirectoryError as error:
            raise JournalError(error.message) from None
        journal = Journal(
            self._directory.path / FILE, reserve=self._directory.reserve, witness=self._witness
        )
        try:
            return journal, journal.open_records()
        except JournalError:
            journal.close()
            raise

    async def _answer_for(self, seconds: float) -> None:
        """Take what comes, for so long."""
        until = time.monotonic() + max(0.0, seconds)
        while (left := until - time.monotonic()) > 0:
            try:
                # Around the waiting only: what was written down must also be handed on.
                async with asyncio.timeout(left):
                    message, link = await self._inbox.get()
            except TimeoutError:
                return
            try:
                await self._answer(message, link)
            except JournalError as error:
                self._in_trouble(error)
                link.say(error.code, error.message)
            else:
                self._well()

    async def _answer(self, message: Message, link: Link) -> None:
        office = self._office
        if office is None:
            if not isinstance(message, EventAck):
                link.say(JournalError.code, self._trouble or "The journal is not open yet.")
            return
        match message:
            case Command():
                await self._accept(office, message)
            case Cancel():
                receipt = await self._disk(office.journal.cancel, message.id, at=wall_clock())
                if receipt is CancelReceipt.BEGUN:
                    office.runner.stop(message.id)
                _log.info("cancel", command=message.id, receipt=receipt.name.lower())
            case EventAck():
                await self._disk(office.journal.acknowledge, message.sequence)
        office.outbox.wake()

    async def _accept(self, office: _Office, command: Command) -> None:
        policy = await self._disk(self._policy.read)
        end = refusal(command, self._handlers, policy) or expiry(command, self._clock.now())
        receipt = await self._disk(office.journal.accept, command, end=end, at=wall_clock())
        match receipt:
            case Receipt.TAKEN:
                office.runner.submit(Record(command, RecordState.WAITING))
            case Receipt.DUPLICATE:
                office.outbox.send_again()
            case Receipt.ENDED:
                pass
        _log.info(
            "command",
            kind=command.kind,
            command=command.id,
            receipt=receipt.name.lower(),
            **({"reason": end.error_message} if end is not None else {}),
        )

    def _well(self) -> None:
        if self._office is not None and self._trouble is not None:
            self._trouble = None
            _log.info("journal works again")

    def _in_trouble(self, error: JournalError) -> None:
        if self._trouble != error.message:
            _log.error("no commands", reason=error.message)
        self._trouble = error.message

    async def _try(self, work: Callable[[_Office], None]) -> None:
        """Something that may be left undone."""
        if self._office is None:
            return
        with contextlib.suppress(JournalError):
            await self._disk(work, self._office)

    def _count(self, office: _Office) -> None:
        self._counts = office.journal.counts()

    def _store_clock(self, office: _Office) -> None:
        offset = self._clock.offset
        if abs(offset - office.journal.clock_offset) > _CLOCK_MOVED:
            office.journal.store_clock_offset(offset)

    def _tidy(self, office: _Office) -> None:
        self._store_clock(office)
        office.journal.forget(control_clock=self._clock.now())
