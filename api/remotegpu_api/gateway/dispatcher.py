"""Commands from the outbox to the links that this process holds."""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import structlog

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.database.failures import DATABASE_ERRORS
from remotegpu_core.models import Command
from remotegpu_core.services import commands, events, leases
from remotegpu_core.tasks import end, keep_running
from remotegpu_core.versions import Topic
from remotegpu_protocol import commands as wire
from remotegpu_protocol.errors import ProtocolError
from remotegpu_protocol.limits import COMMAND_RETRY, COMMAND_WINDOW

if TYPE_CHECKING:
    from remotegpu_api.gateway.connection import AgentConnection

log = structlog.get_logger()

#: Seconds between two looks when nothing moves: for what is to be sent again, or ran out.
_ROUND: Final = 5.0
#: Commands that are on their way at a time over all links of this process.
_UNDERWAY: Final = 10_000


class Dispatcher:
    """Sends what waits for hosts whose links are here, in its order, until they have accepted it.

    What a link has not answered is sent again: over the next link at once, over the same one after
    a while. The host tells duplicates apart.
    """

    def __init__(
        self,
        plane: ControlPlane,
        links: "Mapping[uuid.UUID, AgentConnection]",
        supersede: "Callable[[AgentConnection], None]",
    ) -> None:
        self._plane = plane
        self._links = links
        self._supersede = supersede
        self._wake = asyncio.Event()
        #: Machines whose links may have commands without an answer: few of many.
        self._asked: set[uuid.UUID] = set()
        self._task: asyncio.Task[None] | None = None
        self._rounds_at = 0.0
        self._away = False
        plane.versions.on_change(Topic.COMMANDS, self._moved)

    def start(self) -> None:
        self._task = asyncio.create_task(keep_running("dispatcher", self._run), name="dispatcher")

    async def stop(self) -> None:
        await end(self._task)

    def look(self) -> None:
        """Something may be there to send: a link opened, or has room again."""
        self._wake.set()

    async def _moved(self) -> None:
        # Others hear of versions on the same task: nothing is done here.
        self._wake.set()

    async def _run(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ROUND):
                await self._wake.wait()
        self._wake.clear()
        try:
            if time.monotonic() - self._rounds_at >= _ROUND:
                self._rounds_at = time.monotonic()
                await self._expire()
            await self._send_all()
            await self._cancel_all()
        except DATABASE_ERRORS as error:
            if not self._away:
                log.warning("commands.database_away", error=str(error))
            self._away = True
            self._wake.set()
            await asyncio.sleep(1)
            return
        self._away = False

    async def _expire(self) -> None:
        if await leases.hold("commands", self._plane.replica_id) is None:
            return
        if await events.expire_unsent():
            await self._plane.bus.nudge("commands")

    async def _send_all(self) -> None:
        while await self._send_some():
            pass

    async def _send_some(self) -> bool:
        """One batch; whether there may be more that can go out now."""
        # What is on its way must not stand before the rest, nor a host that has all it may have.
        now = time.monotonic()
        asked = {id_: link for id_ in self._asked if (link := self._links.get(id_)) and link.sent}
        self._asked = set(asked)
        full = [id_ for id_, link in asked.items() if not link.has_room(now)]
        underway = [id_ for link in asked.values() for id_ in link.underway(now)]
        if len(underway) >= _UNDERWAY:
            return False
        found = await commands.waiting_for(self._plane.replica_id, full=full, underway=underway)
        epochs = await commands.epochs_of({command.machine_id for command in found})
        due: list[tuple[AgentConnection, Command]] = []
        for command in found:
            connection = self._links.get(command.machine_id)
            if connection is None or not connection.takes_commands:
                continue
            if connection.epoch != epochs.get(command.machine_id):
                # The host was accepted or enrolled anew, and nobody could say so here: the journal
                # of its next connection is looked at first.
                self._supersede(connection)
                continue
            sent = connection.sent
            again = now - sent.get(command.id, -COMMAND_RETRY) >= COMMAND_RETRY
            if again and (command.id in sent or len(sent) < COMMAND_WINDOW):
                # From here on it may have been seen.
                sent[command.id] = now
                self._asked.add(command.machine_id)
                due.append((connection, command))
        if not due:
            return False
        try:
            alive = await commands.mark_sent([command.id for _, command in due])
        except DATABASE_ERRORS:
            for connection, command in due:
                connection.sent.pop(command.id, None)
            raise
        for connection, command in due:
            if command.id in alive:
                await self._send(connection, command)
            else:
                connection.sent.pop(command.id, None)
        return len(found) == commands.BATCH

    async def _send(self, connection: "AgentConnection", command: Command) -> None:
        message = wire.Command(
            id=str(command.id),
            sequence=command.sequence,
            kind=command.kind,
            arguments=commands.to_wire(command),
            deadline=command.deadline,
            allocation_id=None if command.allocation_id is None else str(command.allocation_id),
            generation=command.generation,
        )
        try:
            await connection.command(message)
        except ProtocolError as error:
            # Checked when it was written; a bug here must not stop the others.
            log.error("commands.unsendable", command=str(command.id), error=error.message)

    async def _cancel_all(self) -> None:
        now = time.monotonic()
        for command_id, machine_id in await commands.cancels_for(self._plane.replica_id):
            connection = self._links.get(machine_id)
            if connection is None or not connection.takes_commands:
                continue
            if now - connection.cancelled.get(command_id, -COMMAND_RETRY) >= COMMAND_RETRY:
                connection.cancelled[command_id] = now
                await connection.cancel(str(command_id))
