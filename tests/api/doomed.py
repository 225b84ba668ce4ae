"""A control plane in a process of its own that kills itself at a chosen moment.

It serves, and does what its users want meanwhile. Somebody who got no answer asks again with the
same key: so the next process finishes what the one before it began.
"""

import asyncio
import contextlib
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

import structlog
import uvloop
from tortoise.backends.asyncpg.client import TransactionWrapper
from tortoise.backends.sqlite.client import SqliteTransactionWrapper

from remotegpu_api.gateway.connection import AgentConnection
from remotegpu_api.server import running
from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Allocation, Command, Gpu, User
from remotegpu_core.services import commands
from remotegpu_core.services.allocations.allocate import allocate
from remotegpu_core.services.allocations.release import cancel_operation, release
from remotegpu_core.services.allocations.request import AllocateRequest
from remotegpu_core.settings import load_settings
from remotegpu_core.states import FINAL, AllocationState, CommandState
from tests.api.plane import ADMIN
from tests.core.patience import eventually
from tests.core.people import make_actor
from tests.forking import CONTEXT
from tests.wall_clock import WallClock

#: Whose commits count: those of commands, and of what they are about. Duties run beside them.
PLACES = frozenset(
    {
        "allocate",
        "release",
        "cancel_operation",
        "connect",
        "meet",
        "apply_inventory",
        "mark_sent",
        "apply_event",
    }
)


SEND = "sending a command"
CANCEL = "sending a cancel"
EVENT = "an event is applied"
#: Commands, cancels and acknowledgements go out with it.
FLUSH = "frames are written"

#: The moments that come once in the life of a host: its journal becomes known.
MEETING = ["before commit of meet", "after commit of meet"]

#: Each other moment that there is.
MOMENTS = [
    f"{when} {what}"
    for what in (
        *(f"commit of {place}" for place in sorted(PLACES - {"meet"})),
        *(SEND, CANCEL, EVENT, FLUSH),
    )
    for when in ("before", "after")
]


@dataclass(frozen=True)
class Life:
    """What one process is to do: serve, do `rounds`, and die when the moment comes for this time.

    What it does of the rounds that its predecessors have done changes nothing.
    """

    settings: dict[str, Any]
    machine_id: uuid.UUID
    ends_at: int
    rounds: tuple[int, ...]
    moment: str = ""
    time: int = 1


class Mortal:
    """Counts moments, and ends the process without a word at the one that was chosen."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._seen: Counter[str] = Counter()

    def pass_by(self, moment: str) -> None:
        self._seen[moment] += 1
        if (moment, self._seen[moment]) == (self._life.moment, self._life.time):
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: type, name: str, what: str) -> None:
        """Have a method of a class pass two moments, before and after it."""
        inner: Callable[..., Awaitable[Any]] = getattr(owner, name)

        async def method(this: Any, *arguments: Any, **named: Any) -> Any:
            self.pass_by(f"before {what}")
            result = await inner(this, *arguments, **named)
            self.pass_by(f"after {what}")
            return result

        setattr(owner, name, method)

    def around_commits(self, owner: type) -> None:
        inner: Callable[[Any], Awaitable[None]] = owner.commit  # type: ignore[attr-defined]  # of a transaction

        async def commit(this: Any) -> None:
            place = _place()
            if place is not None:
                self.pass_by(f"before commit of {place}")
            await inner(this)
            if place is not None:
                self.pass_by(f"after commit of {place}")

        owner.commit = commit  # type: ignore[attr-defined]  # as above

    def around_flushes(self) -> None:
        inner = AgentConnection.flush

        async def flush(this: AgentConnection) -> None:
            something = this.machine_id is not None and not this.link.is_idle
            if something:
                self.pass_by(f"before {FLUSH}")
            await inner(this)
            if something:
                self.pass_by(f"after {FLUSH}")

        AgentConnection.flush = flush  # type: ignore[method-assign, assignment]  # in this process only


def _place() -> str | None:
    """Which of PLACES is committing."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_name in PLACES and "remotegpu_core" in frame.f_globals["__name__"]:
            return frame.f_code.co_name
        frame = frame.f_back  # type: ignore[assignment]  # None ends it
    return None


def live(life: Life) -> None:
    """What the process does; it ends with exit code 0 when all is done."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    mortal = Mortal(life)
    for transaction in (TransactionWrapper, SqliteTransactionWrapper):
        mortal.around_commits(transaction)
    mortal.around(AgentConnection, "command", SEND)
    mortal.around(AgentConnection, "cancel", CANCEL)
    mortal.around(AgentConnection, "_event", EVENT)
    mortal.around_flushes()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_live(life))


async def _live(life: Life) -> None:
    async with running(load_settings(**life.settings)) as (server, plane):
        serving = asyncio.create_task(server.run_until_stopped())
        await eventually(lambda: _is_true(server.started))
        actor = await make_actor(await User.get(username=ADMIN))
        await eventually(lambda: Gpu.exists(machine_id=life.machine_id))
        for number in life.rounds:
            await _work(plane, actor, life, number)
        # Nobody takes its leave.
        os._exit(0)
        await serving


async def _is_true(value: bool) -> bool:
    return value


async def _work(plane: ControlPlane, actor: Actor, life: Life, number: int) -> None:
    """One allocation from its beginning to its end, and one that is called off as soon as it is sent."""
    gpus = await Gpu.filter(machine_id=life.machine_id).order_by("index")
    await asyncio.gather(
        _have(plane, actor, life, gpus[0], f"have-{number}"),
        _call_off(plane, actor, life, gpus[1], f"call-off-{number}"),
    )
    await eventually(_nothing_open)


async def _nothing_open() -> bool:
    return not await Command.exists(state__in=list(commands.OPEN))


async def _ask(
    plane: ControlPlane, actor: Actor, life: Life, gpu: Gpu, key: str
) -> tuple[uuid.UUID, uuid.UUID]:
    request = AllocateRequest(machine_id=life.machine_id, gpu_ids=(gpu.id,), ends_at=life.ends_at)
    allocation, operation = await allocate(actor, plane.settings, request, key=key)
    await plane.bus.nudge("allocate")
    return allocation.id, operation.id


async def _have(plane: ControlPlane, actor: Actor, life: Life, gpu: Gpu, key: str) -> None:
    allocation_id, _operation = await _ask(plane, actor, life, gpu, key)
    await eventually(
        lambda: Allocation.filter(id=allocation_id).exclude(state=AllocationState.PENDING).exists()
    )
    await _release(plane, actor, allocation_id, key)


async def _call_off(plane: ControlPlane, actor: Actor, life: Life, gpu: Gpu, key: str) -> None:
    allocation_id, operation_id = await _ask(plane, actor, life, gpu, key)
    told = Command.filter(allocation_id=allocation_id).exclude(state=CommandState.QUEUED)
    await eventually(told.exists)
    with contextlib.suppress(Conflict):
        await cancel_operation(actor, operation_id)
        await plane.bus.nudge("cancel")
    await _release(plane, actor, allocation_id, key)


async def _release(plane: ControlPlane, actor: Actor, allocation_id: uuid.UUID, key: str) -> None:
    # Conflict: it is over already.
    with contextlib.suppress(Conflict):
        await release(actor, allocation_id, key=key)
    await plane.bus.nudge("release")
    await eventually(lambda: Allocation.exists(id=allocation_id, state__in=_OVER))


_OVER = [state for state in AllocationState if state in FINAL]


@contextlib.asynccontextmanager
async def lived(life: Life) -> AsyncIterator[BaseProcess]:
    """The process when it has ended by itself, within a minute."""
    process = CONTEXT.Process(target=live, args=(life,))
    process.start()
    try:
        async with asyncio.timeout(60):
            while process.is_alive():  # noqa: ASYNC110 - another process sets no event
                await asyncio.sleep(0.005)
        yield process
    finally:
        process.kill()
        process.join(20)


def serve(settings: dict[str, Any], clock: WallClock) -> None:
    """A process that does nothing but serve, until it is killed."""
    clock.install()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))

    async def forever() -> None:
        async with running(load_settings(**settings)) as (server, _plane):
            await server.run_until_stopped()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(forever())


class Replica:
    """One of several processes on one database and one Redis."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.clock = WallClock()
        self._process: BaseProcess | None = None

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        if not self.lives:
            self._process = CONTEXT.Process(target=serve, args=(self.settings, self.clock))
            self._process.start()

    def pause(self) -> None:
        """Stop it where it is, as a virtual machine that is moved."""
        if self._process is not None and self._process.pid and self.lives:
            os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        if self._process is not None and self._process.pid and self.lives:
            os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join(20)
