"""Doing what was taken on: commands of one allocation in their order, others side by side."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from remotegpu_agent.commands.admission import Handlers, expiry, refusal
from remotegpu_agent.commands.clock import ControlClock
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.execution import Execution
from remotegpu_agent.commands.journal import Journal
from remotegpu_agent.commands.policy import PolicySource
from remotegpu_agent.commands.records import Outcome, Progress, Record, RecordState
from remotegpu_agent.errors import JournalError
from remotegpu_agent.link import wall_clock
from remotegpu_protocol.commands import Command

_log = structlog.get_logger("remotegpu_agent")

#: Commands that are done at the same time.
MAX_SIDE_BY_SIDE: Final = 8
#: Seconds between two attempts to write what the disk did not take.
_WRITE_AGAIN: Final = 1.0

_Written = TypeVar("_Written")


@dataclass
class _Entry:
    record: Record
    cancelled: bool
    execution: Execution | None = None


class Runner:
    """Does the commands of the journal, each at most once."""

    def __init__(
        self,
        journal: Journal,
        disk: DiskThread,
        handlers: Handlers,
        policy: PolicySource,
        clock: ControlClock,
        *,
        written: Callable[[], None],
    ) -> None:
        self._journal = journal
        self._disk = disk
        self._handlers = handlers
        self._policy = policy
        self._clock = clock
        self._written = written
        self._entries: dict[str, _Entry] = {}
        self._lines: dict[str, deque[_Entry]] = {}
        self._workers: set[asyncio.Task[None]] = set()
        self._side_by_side = asyncio.Semaphore(MAX_SIDE_BY_SIDE)

    def submit(self, record: Record) -> None:
        """Do this command when it is its turn. It is in the journal."""
        command = record.command
        entry = self._entries[command.id] = _Entry(record, record.cancelled)
        # Ids of commands and of allocations are not mixed up.
        name = f"command {command.id}"
        if command.allocation_id is not None:
            name = f"allocation {command.allocation_id}"
        line = self._lines.setdefault(name, deque())
        line.append(entry)
        if len(line) == 1:
            worker = asyncio.create_task(self._work(name, line), name=f"commands of {name}")
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    def stop(self, command_id: str) -> None:
        """The journal says that this command is cancelled and had begun."""
        entry = self._entries.get(command_id)
        if entry is None:
            return
        entry.cancelled = True
        if entry.execution is not None:
            entry.execution.stop()

    async def close(self) -> None:
        """Leave everything where it is; the next process finds out what came of it."""
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _work(self, name: str, line: deque[_Entry]) -> None:
        while line:
            entry = line[0]
            async with self._side_by_side:
                await self._do(entry)
            line.popleft()
            self._entries.pop(entry.record.command.id, None)
        # Nothing was awaited since the line was seen empty, so nobody joined it meanwhile.
        del self._lines[name]

    async def _do(self, entry: _Entry) -> None:
        command = entry.record.command
        try:
            outcome = await self._outcome(entry)
        except Exception as error:  # noqa: BLE001 - one command's mistake must not end the others
            _log.exception("internal error", during=f"command {command.kind}")
            outcome = Execution.internal_error(error)
        if outcome is None:
            return
        await self._write(lambda: self._disk(self._finish, command.id, outcome))
        self._written()
        _log.info(
            "command ended",
            kind=command.kind,
            command=command.id,
            state=outcome.state.value,
            **({"reason": outcome.error_message} if outcome.error_message else {}),
        )

    async def _outcome(self, entry: _Entry) -> Outcome | None:
        """Do it, and tell how it ends; None when it was cancelled before it began."""
        command = entry.record.command
        handler = self._handlers.get(command.kind)
        execution = Execution(command, handler, self._report_of(command))
        if entry.record.state is RecordState.BEGUN:
            found = await execution.look_up()
            if found is not None:
                return found
            # Nothing is there, so it is as if it had not begun.
            ended = execution.nothing_done() if entry.cancelled else await self._objection(command)
            if ended is not None:
                return ended
        else:
            ended = await self._objection(command) or await execution.objection()
            if ended is not None:
                return ended
            if not await self._write(lambda: self._disk(self._begin, command.id)):
                return None
            self._written()
        entry.execution = execution
        if entry.cancelled:
            execution.stop()
        return await execution.run()

    async def _objection(self, command: Command) -> Outcome | None:
        """Hours may have passed since it was taken on: policies change, deadlines pass."""
        policy = await self._disk(self._policy.read)
        return refusal(command, self._handlers, policy) or expiry(command, self._clock.now())

    def _report_of(self, command: Command) -> Callable[[Progress], Coroutine[Any, Any, None]]:
        async def report(progress: Progress) -> None:
            try:
                await self._disk(self._progress, command.id, progress)
            except JournalError as error:
                # For people only: what counts is written before the command ends.
                _log.debug("progress not written", reason=error.message)
            else:
                self._written()

        return report

    def _begin(self, command_id: str) -> bool:
        return self._journal.begin(command_id, at=wall_clock())

    def _progress(self, command_id: str, progress: Progress) -> None:
        self._journal.progress(command_id, progress, at=wall_clock())

    def _finish(self, command_id: str, outcome: Outcome) -> bool:
        return self._journal.finish(command_id, outcome, at=wall_clock())

    async def _write(self, write: Callable[[], Coroutine[Any, Any, _Written]]) -> _Written:
        """What must be in the journal before anything goes on, however long the disk is full."""
        said = False
        while True:
            try:
                return await write()
            except JournalError as error:
                if not said:
                    _log.error("journal not written", reason=error.message)
                    said = True
                await asyncio.sleep(_WRITE_AGAIN)
