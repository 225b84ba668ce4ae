"""One open websocket and the state machine that decides what goes over it."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from msgspec import structs
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from remotegpu_agent.dial import CLOSE_TIMEOUT
from remotegpu_protocol.agent_link import AgentLink, AgentState
from remotegpu_protocol.close_codes import CloseCode, fit_reason
from remotegpu_protocol.commands import Event
from remotegpu_protocol.errors import MessageTooLarge
from remotegpu_protocol.inventory import Inventory
from remotegpu_protocol.messages import Error, FromServer
from remotegpu_protocol.metrics import Metrics

#: Processes a GPU that a sample keeps when it is too large for a message with all of them.
_FEW_PROCESSES: Final = 8

#: What TCP says when a connection broke without a close frame (RFC 6455, section 7.1.5).
ABNORMAL: Final = 1006


@dataclass(frozen=True, slots=True)
class Ending:
    """How a link ended: a websocket close code, and why, in words."""

    code: int
    reason: str
    #: The code of the fatal error that the control plane sent before it closed, if it sent one.
    error_code: str | None = None
    #: Seconds after which the control plane asked the agent to come back, if it did.
    retry_after: float | None = None


def wall_clock() -> int:
    """This host's clock in milliseconds since the Unix epoch."""
    return time.time_ns() // 1_000_000


class Link:
    """Moves bytes between a websocket and an AgentLink, and time into it.

    Reading, writing and ticking are three tasks, so that a peer that reads nothing cannot keep
    the tick from noticing that it is dead.
    """

    def __init__(
        self,
        websocket: ClientConnection,
        machine: AgentLink,
    ) -> None:
        self.machine = machine
        #: Samples that were not sent because the ones before still waited for the network.
        self.skipped = 0
        self._websocket = websocket
        self._changed = asyncio.Event()
        self._something_to_send = asyncio.Event()
        self._sending = False
        self._fatal: Error | None = None

    @property
    def local_address(self) -> str | None:
        """The address that this end dials from, where the socket tells."""
        name = self._websocket.local_address
        return str(name[0]) if isinstance(name, tuple) and name else None

    async def run(self, on_message: Callable[[FromServer], None]) -> Ending:
        """Serve the link until one side ends it; `on_message` gets what concerns the agent.

        Cancelling ends it politely, with close code 1001.
        """
        tasks = [
            asyncio.create_task(self._write(), name="link-write"),
            asyncio.create_task(self._tick(), name="link-tick"),
        ]
        try:
            await self._read(on_message)
            await self._send_rest()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close(
                self.machine.close_code or CloseCode.GOING_AWAY,
                self.machine.close_reason or "The agent stops.",
            )
        return self._ending()

    def send_metrics(self, metrics: Metrics) -> bool:
        """Offer a sample; it is skipped while the one before has not left."""
        if self._sending:
            self.skipped += 1
            return False
        try:
            self.machine.send_metrics(metrics)
        except MessageTooLarge:
            self._send_smaller(metrics)
        self._wake()
        return True

    def send_inventory(self, inventory: Inventory) -> None:
        self.machine.send_inventory(inventory, now=time.monotonic())
        self._wake()

    def send_event(self, event: Event) -> bool:
        """Offer an event; False while the link is not open."""
        sent = self.machine.send_event(event)
        self._wake()
        return sent

    def say(self, code: str, message: str) -> None:
        """Tell the control plane why something that it sent is not answered."""
        self.machine.say(code, message)
        self._wake()

    async def end(self, reason: str) -> None:
        """Close the connection from this side, so that a new one begins."""
        await self._close(CloseCode.GOING_AWAY, reason)

    def _send_smaller(self, metrics: Metrics) -> None:
        try:
            self.machine.send_metrics(_with_processes(metrics, _FEW_PROCESSES))
        except MessageTooLarge:
            self.machine.send_metrics(_with_processes(metrics, 0))

    async def _read(self, on_message: Callable[[FromServer], None]) -> None:
        with contextlib.suppress(ConnectionClosed):
            while self.machine.state is not AgentState.CLOSED:
                frame = await self._websocket.recv()
                for message in self.machine.receive(
                    frame, now=time.monotonic(), clock=wall_clock()
                ):
                    if isinstance(message, Error) and message.fatal:
                        self._fatal = message
                    on_message(message)
                self._wake()

    async def _write(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await self._something_to_send.wait()
                self._something_to_send.clear()
                await self._send_rest()

    async def _send_rest(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            self._sending = True
            try:
                for frame in self.machine.take_frames():
                    await self._websocket.send(frame)
            finally:
                self._sending = False

    async def _tick(self) -> None:
        while True:
            self._changed.clear()
            pause = max(0.0, self.machine.next_tick() - time.monotonic())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._changed.wait()
            if self.machine.state is AgentState.CLOSED:
                return
            self.machine.tick(now=time.monotonic(), clock=wall_clock())
            self._something_to_send.set()
            if self.machine.close_code is not None:
                # Ends the reading, and with it the link.
                await self._close(self.machine.close_code, self.machine.close_reason)
                return

    def _wake(self) -> None:
        self._changed.set()
        self._something_to_send.set()

    async def _close(self, code: int, reason: str) -> None:
        try:
            # A close frame queues behind what a dead peer does not read, so this has its own limit.
            async with asyncio.timeout(CLOSE_TIMEOUT + 0.2):
                await self._websocket.close(code, fit_reason(reason))
        except TimeoutError:
            self._websocket.transport.abort()

    def _ending(self) -> Ending:
        machine, fatal = self.machine, self._fatal
        received = self._websocket.protocol.close_rcvd
        if machine.close_code is not None:
            if fatal is None:
                return Ending(machine.close_code, machine.reason)
            return Ending(machine.close_code, machine.reason, fatal.code, fatal.retry_after)
        if received is not None:
            return Ending(received.code, received.reason or "The control plane closed the link.")
        return Ending(ABNORMAL, "The connection broke.")


def _with_processes(metrics: Metrics, limit: int) -> Metrics:
    return structs.replace(
        metrics,
        gpus=[
            structs.replace(gpu, processes=gpu.processes[:limit] if limit else None)
            if gpu.processes
            else gpu
            for gpu in metrics.gpus
        ],
    )
