"""An agent killed at every moment that there is: nothing is lost, nothing is done twice."""

import asyncio
import random
from pathlib import Path

import pytest

from remotegpu_agent.commands.moments import Moment
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import Command, Event, EventState
from remotegpu_protocol.messages import FromAgent
from tests.agent.commands.commander import Commander
from tests.agent.commands.mortal import AFTER_EFFECT, BEFORE_EFFECT, Death, Effects, alive, died
from tests.agent.control_plane import ControlPlane, Peer

#: Every commit, sending and acknowledgement, before and after; and the effect.
MOMENTS = [*map(str, Moment), BEFORE_EFFECT, AFTER_EFFECT]
#: More often than this nothing happens in one life.
MOST = 20

pytestmark = pytest.mark.usefixtures("identity")


class Host:
    """Where one agent after the other lives; the control plane and the witness go on."""

    def __init__(self, plane: ControlPlane, directory: StateDirectory, effects: Path) -> None:
        self.plane = plane
        self.directory = directory
        self.effects = Effects(effects)
        self.commander = Commander(plane)
        self.commands = [self.commander.start("a1"), self.commander.start("a2")]
        self.unseen = self.commander.start("a3")

    async def start_anew(self) -> None:
        """Another journal, and a control plane that remembers nothing."""
        # What the dead have sent is read to its end first.
        for peer in self.plane.peers:
            await peer.closed.wait()
        for path in self.directory.path.glob("journal.db*"):
            path.unlink()
        self.effects.path.unlink(missing_ok=True)
        self.plane.listeners.clear()
        self.plane.peers.clear()
        self.commander = Commander(self.plane)

    async def command(self) -> None:
        await self.commander.give(*self.commands)
        await self.commander.cancel(self.unseen)

    async def settled(self) -> None:
        """All is told and acknowledged."""
        for command in (*self.commands, self.unseen):
            await self.commander.outcome(command)

    def check(self, *, looks_up: bool) -> None:
        self.commander.check()
        effects = self.effects.count()
        for command in self.commands:
            ends = [event.state for event in self.commander.of(command) if event.state.is_end]
            done = effects[str(command.allocation_id)]
            assert len(set(ends)) == 1, ends
            if ends[0] is EventState.SUCCEEDED:
                assert done == 1
            else:
                assert not looks_up
                assert ends[0] is EventState.INDETERMINATE
                assert done <= 1
        assert effects["a3"] == 0
        assert self.commander.states(self.unseen) == ["CANCELLED"]


@pytest.fixture
def host(plane: ControlPlane, directory: StateDirectory, tmp_path: Path) -> Host:
    plane.sample_interval = 3600.0
    return Host(plane, directory, tmp_path / "effects")


@pytest.mark.parametrize("looks_up", [True, False], ids=["looked up", "not looked up"])
@pytest.mark.parametrize("moment", MOMENTS)
async def test_killed_at(host: Host, moment: str, looks_up: bool) -> None:
    deaths = 0
    for time in range(1, MOST):
        await host.start_anew()
        await host.command()
        with alive(
            host.directory, host.effects, looks_up=looks_up, death=Death(moment, time)
        ) as one:
            settled = asyncio.create_task(host.settled())
            dying = asyncio.create_task(died(one))
            await asyncio.wait({settled, dying}, return_when=asyncio.FIRST_COMPLETED)
            if not settled.done():
                await dying
                deaths += 1
                with alive(host.directory, host.effects, looks_up=looks_up):
                    await settled
            dying.cancel()
        host.check(looks_up=looks_up)
        if deaths < time:
            break
    assert deaths >= 1
    assert deaths < MOST - 1


@pytest.mark.parametrize("acknowledges", [False, True], ids=["before the ack", "after the ack"])
async def test_killed_when_an_event_has_arrived(host: Host, acknowledges: bool) -> None:
    for number in range(1, 6):
        await host.start_anew()
        host.commander.acknowledges = acknowledges
        await host.command()
        with alive(host.directory, host.effects) as one:

            def kill(_peer: Peer, message: FromAgent) -> None:
                if isinstance(message, Event) and message.sequence == number:  # noqa: B023 - this round's
                    one.kill()

            host.plane.listeners.append(kill)
            await died(one)
            host.plane.listeners.remove(kill)
        host.commander.acknowledges = True
        with alive(host.directory, host.effects):
            await host.settled()
        host.check(looks_up=True)


@pytest.mark.parametrize("seed", [1, 2])
async def test_killed_again_and_again(host: Host, seed: int) -> None:
    """Many commands, and an agent that hardly ever lives to the end of one."""
    chance = random.Random(seed)
    more: list[Command] = [host.commander.start(f"b{n}") for n in range(10)]
    host.commands += more
    await host.command()
    settled = asyncio.create_task(host.settled())
    for _ in range(12):
        death = Death(chance.choice(MOMENTS), chance.randint(1, 3))
        with alive(host.directory, host.effects, death=death) as one:
            dying = asyncio.create_task(died(one))
            await asyncio.wait({settled, dying}, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            dying.cancel()
    with alive(host.directory, host.effects):
        await settled
    host.check(looks_up=True)
