"""Commands from the database to the host's journal, over links that come and go."""

import asyncio
import time
import uuid

import pytest
from tortoise.exceptions import OperationalError

from remotegpu_api.gateway import connection, dispatcher
from remotegpu_core.clock import now_ms
from remotegpu_core.models import Command, Machine
from remotegpu_core.services import commands, hosts
from remotegpu_core.services.events import Applied, apply_event
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_core.states import CommandState
from remotegpu_protocol import commands as wire
from remotegpu_protocol.codec import encode
from remotegpu_protocol.commands import EventState
from remotegpu_protocol.kinds import ALLOCATION_START, AllocationStart, read_arguments
from remotegpu_protocol.limits import COMMAND_WINDOW
from tests.api.host import Host, enrolled
from tests.api.plane import Server
from tests.core.people import HOUR, make_admin

JOURNAL = "journal-1"


def arguments(name: str) -> AllocationStart:
    return AllocationStart(name, "ada", True, [], 1_900_000_000_000)


async def queue(host: Host, *names: str, **values: object) -> list[str]:
    """Write commands as a service would, and nudge as the graph would; their ids."""
    machine_id = uuid.UUID(host.machine_id)
    made = []
    async with ledger(machine_id):
        for name in names:
            row = await commands.enqueue(
                ALLOCATION_START,
                arguments(name),
                machine_id=machine_id,
                deadline=now_ms() + HOUR,
                **values,  # type: ignore[arg-type]  # passed on as they are
            )
            made.append(str(row.id))
    await host.server.plane.bus.nudge("test")
    return made


async def state(command_id: str) -> CommandState:
    return CommandState((await Command.get(id=uuid.UUID(command_id))).state)


async def until_state(command_id: str, expected: CommandState) -> None:
    deadline = time.monotonic() + 15
    while (found := await state(command_id)) is not expected:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.02)


async def test_a_command_goes_to_the_host_and_is_done_once(any_server: Server) -> None:
    server = any_server
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        [first] = await queue(host, "one")
        [command] = await link.commands(1)
        assert (command.id, command.kind) == (first, "allocation.start")
        assert read_arguments(command.kind, command.arguments) == arguments("one")
        assert await state(first) is CommandState.SENT
        await link.tell(first, 1, EventState.ACCEPTED)
        await until_state(first, CommandState.ACCEPTED)
        await link.tell(first, 2, EventState.RUNNING, progress=0.5)
        await link.tell(first, 3, EventState.SUCCEEDED, result=b"\x80")
        await until_state(first, CommandState.SUCCEEDED)
        await link.tell(first, 3, EventState.SUCCEEDED, result=b"\x80")
        # Nobody nudges: the outbox is looked at all the same.
        machine_id = uuid.UUID(host.machine_id)
        async with ledger(machine_id):
            await commands.enqueue(
                ALLOCATION_START,
                arguments("two"),
                machine_id=machine_id,
                deadline=now_ms() + HOUR,
            )
        assert len(await link.commands(2)) == 2


async def test_links_that_break_lose_and_double_nothing(server: Server) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    one, two, three = await queue(host, "one", "two", "three")
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        # In order, from before the link was there.
        assert [command.id for command in await link.commands(3)] == [one, two, three]
        await link.tell(one, 1, EventState.ACCEPTED)
        await link.vanish()
    async with host.connected(opening=host.opening(journal=(JOURNAL, 1))) as link:
        # What was accepted is the journal's; the rest comes again.
        assert [command.id for command in await link.commands(2)] == [two, three]
        await link.tell(two, 2, EventState.REFUSED, error_code="POLICY", error_message="no")
        await link.tell(three, 3, EventState.ACCEPTED)
    row = await Command.get(id=uuid.UUID(two))
    assert (row.state, row.error_code) == (CommandState.REFUSED, "POLICY")
    async with host.connected(opening=host.opening(journal=(JOURNAL, 3))) as link:
        await asyncio.sleep(0.5)
        assert link.of(wire.Command) == []


async def test_what_is_not_accepted_is_sent_again_over_the_same_link(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "COMMAND_RETRY", 0.3)
    monkeypatch.setattr(connection, "COMMAND_RETRY", 0.3)
    monkeypatch.setattr(dispatcher, "_ROUND", 0.1)
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        [one] = await queue(host, "one")
        assert [command.id for command in await link.commands(2)] == [one, one]
        await link.tell(one, 1, EventState.ACCEPTED)
        sent = len(link.of(wire.Command))
        await asyncio.sleep(0.8)
        assert len(link.of(wire.Command)) == sent


async def test_a_link_carries_a_window_of_them(server: Server) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    made = await queue(host, *(f"a{n}" for n in range(COMMAND_WINDOW + 5)))
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        await link.commands(COMMAND_WINDOW)
        await asyncio.sleep(0.5)
        assert len(link.of(wire.Command)) == COMMAND_WINDOW
        for sequence, command_id in enumerate(made, 1):
            await link.commands(sequence)
            await link.tell(command_id, sequence, EventState.ACCEPTED)
        assert [command.id for command in link.of(wire.Command)] == made


async def test_cancels_reach_the_host_also_over_its_next_link(server: Server) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    [one] = await queue(host, "one")
    chosen = Command.filter(id=uuid.UUID(one))
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        await link.tell((await link.commands(1))[0].id, 1, EventState.ACCEPTED)
        await chosen.update(cancel_requested_at=now_ms())
        server.gateway.dispatcher.look()
        await link.until(lambda: link.of(wire.Cancel))
    async with host.connected(opening=host.opening(journal=(JOURNAL, 1))) as link:
        await link.until(lambda: link.of(wire.Cancel))
        assert link.of(wire.Cancel)[0].id == one
        # It was over before the cancel came.
        await link.tell(one, 2, EventState.SUCCEEDED, result=b"\x80")
        await until_state(one, CommandState.SUCCEEDED)


async def test_hosts_that_may_not_have_commands_get_none(server: Server) -> None:
    admin = await server.sign_in()
    host = await enrolled(server, admin, "gpu-01")
    [one] = await queue(host, "one")
    async with host.connected() as link:
        await asyncio.sleep(0.5)
        assert link.of(wire.Command) == []
    async with host.connected(opening=host.opening(journal=(JOURNAL, 4))) as link:
        await link.tell((await link.commands(1))[0].id, 5, EventState.ACCEPTED)
    # A backup of its disk was put back.
    async with host.connected(opening=host.opening(journal=(JOURNAL, 4))) as link:
        await until_state(one, CommandState.INDETERMINATE)
        [two] = await queue(host, "two")
        await asyncio.sleep(0.5)
        assert link.of(wire.Command) == []
        accept = (
            "mutation($id: ID!) { acceptHost(input: {machineId: $id}) { machine { commandHold } } }"
        )
        accepted = await server.ask(accept, {"id": host.id}, token=admin)
        assert accepted["acceptHost"]["machine"]["commandHold"] is None
        assert (await link.closed())[0] == 4410
    async with host.connected(opening=host.opening(journal=(JOURNAL, 4))) as link:
        assert [command.id for command in await link.commands(1)] == [two]
        # Nobody could tell, and now the host does.
        await link.tell(one, 5, EventState.SUCCEEDED, result=b"\x80")
        await until_state(one, CommandState.SUCCEEDED)
    assert (await Machine.get()).command_hold is None


async def test_an_accepted_host_is_looked_at_anew_before_it_is_sent_anything(
    server: Server,
) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        machine = await Machine.get()
        async with ledger(machine.id):
            await hosts.hold(machine.id, CauseCode.HOST_CLONED, "somebody should look")
        [one] = await queue(host, "one")
        # By another replica, while nobody can be told.
        await hosts.accept_host(await make_admin(), machine.id)
        assert (await link.closed())[0] == 4410
        assert link.of(wire.Command) == []
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        assert [command.id for command in await link.commands(1)] == [one]
    assert await state(one) is CommandState.SENT


async def test_events_that_make_no_sense_harm_nobody(server: Server) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        for sequence, given in enumerate(("nothing", str(uuid.uuid4()), "x" * 128), 1):
            await link.tell(given, sequence, EventState.SUCCEEDED, result=b"\xc1")
        [one] = await queue(host, "one")
        await link.tell((await link.commands(1))[0].id, 4, EventState.ACCEPTED)
        await until_state(one, CommandState.ACCEPTED)


async def test_an_event_after_a_gap_waits_for_the_one_before(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = await enrolled(server, await server.sign_in(), "gpu-01")
    fails = [True]

    async def apply(
        machine_id: uuid.UUID, epoch: int, event: wire.Event, *, first_of: int | None
    ) -> Applied:
        if fails:
            fails.pop()
            raise OperationalError("the database is away")
        return await apply_event(machine_id, epoch, event, first_of=first_of)

    monkeypatch.setattr(connection, "apply_event", apply)
    async with host.connected(opening=host.opening(journal=(JOURNAL, 0))) as link:
        one, two = await queue(host, "one", "two")
        await link.commands(2)

        async def acknowledged(*events: wire.Event) -> int:
            for event in events:
                await link.send_raw(encode(event))
            await asyncio.sleep(0.3)
            return max((ack.sequence for ack in link.of(wire.EventAck)), default=0)

        at = now_ms()
        accepted = [
            wire.Event(n, c, EventState.ACCEPTED, at) for n, c in enumerate((one, two), start=1)
        ]
        # The first cannot be written: the second must not stand for both.
        assert await acknowledged(*accepted) == 0
        assert await acknowledged(*accepted) == 2
        ended = [
            wire.Event(3, one, EventState.SUCCEEDED, at, result=b"\x80"),
            wire.Event(4, two, EventState.FAILED, at),
        ]
        # The first gets lost on its way.
        assert await acknowledged(ended[1]) == 2
        assert await acknowledged(*ended) == 4
    assert (await state(one), await state(two)) == (CommandState.SUCCEEDED, CommandState.FAILED)


async def test_a_host_with_much_to_do_stands_before_nobody(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "BATCH", 8)
    admin = await server.sign_in()
    busy, other = [await enrolled(server, admin, name) for name in ("busy", "other")]
    async with (
        busy.connected(opening=busy.opening(journal=(JOURNAL, 0))) as busy_link,
        other.connected(opening=other.opening(journal=("journal-2", 0))) as other_link,
    ):
        await queue(busy, *(f"a{n}" for n in range(COMMAND_WINDOW + 20)))
        await busy_link.commands(COMMAND_WINDOW)
        # More than a batch of the busy one's wait, none of them accepted.
        [one] = await queue(other, "one")
        assert [command.id for command in await other_link.commands(1)] == [one]
