"""Of two machines that claim one address, the one for which more speaks has it."""

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict
from remotegpu_core.models import Machine, QuarantineCause
from remotegpu_core.services.addresses import disputes
from remotegpu_core.services.addresses.admin import accept_addresses, set_addresses
from remotegpu_core.services.addresses.quarantine import settle
from remotegpu_core.services.presence import connect, disconnect
from remotegpu_protocol.inventory import AddressKind
from tests.core.hosts import REPLICA, make_online
from tests.core.services.addresses.reports import (
    IN_SERVICE,
    QUARANTINED,
    audited,
    contested,
    held,
    lifecycle,
    long_ago,
    report,
)

pytestmark = pytest.mark.usefixtures("database")

ADDRESS = "10.0.0.7"


async def link(machine: Machine, address: str) -> None:
    """Have its agent connect from there."""
    connected = await connect(
        machine.id, REPLICA, agent_version="1.0", boot_id="boot-1", address=address
    )
    assert connected is not None


async def two() -> tuple[Machine, Machine]:
    return (await make_online("first"))[0], (await make_online("second"))[0]


async def states(*machines: Machine) -> list[object]:
    return [await lifecycle(machine) for machine in machines]


async def test_where_nothing_speaks_for_either_both_are_held() -> None:
    first, second = await two()
    await report(first, ADDRESS)
    await report(second, ADDRESS)
    assert await settle() == 1
    assert await states(first, second) == [QUARANTINED, QUARANTINED]
    assert (await audited("quarantineMachine"))[-1][ADDRESS].startswith("'second' claims it")
    assert await settle() == 0
    # It ends for both when one gives it up, whichever.
    await report(second)
    await settle()
    assert await states(first, second) == [IN_SERVICE, IN_SERVICE]
    assert await QuarantineCause.all().count() == 0


async def test_a_claim_takes_nobody_out_of_use_who_was_there_for_long() -> None:
    """A host that claims a whole fleet's addresses."""
    honest = [(await make_online())[0] for _ in range(3)]
    for number, machine in enumerate(honest):
        await report(machine, f"10.0.0.{number}", f"10.1.0.{number}")
        await long_ago(machine)
    liar = (await make_online("liar"))[0]
    await report(liar, *(f"10.{net}.0.{number}" for net in (0, 1) for number in range(3)))
    await settle()
    assert await states(liar, *honest) == [QUARANTINED] + [IN_SERVICE] * 3
    # Not even one whose own link comes from there, while the other's does.
    await link(honest[0], "10.0.0.0")
    await link(liar, "10.0.0.0")
    await settle()
    assert await held(liar) == []


async def test_the_address_of_the_link_decides_for_who_comes_later() -> None:
    """A host that claimed an address before the one that has it was enrolled."""
    liar, honest = await two()
    await report(liar, ADDRESS, "10.0.0.66")
    await long_ago(liar)
    await link(honest, ADDRESS)
    await report(honest, ADDRESS)
    assert await states(liar, honest) == [IN_SERVICE, QUARANTINED]
    assert await settle() == 2
    assert await states(liar, honest) == [QUARANTINED, IN_SERVICE]
    assert (await held(liar), await held(honest)) == (["10.0.0.66"], [ADDRESS])
    assert await contested(liar) == [ADDRESS]
    # A link that is no more proves less than one that is, and the same as long possession.
    await link(liar, ADDRESS)
    assert await settle() == 1
    assert await states(liar, honest) == [QUARANTINED, QUARANTINED]
    row = await Machine.get(id=honest.id)
    await disconnect(honest.id, row.epoch, last_seen_at=1)
    await settle()
    assert await states(liar, honest) == [IN_SERVICE, QUARANTINED]


async def test_a_claim_that_waited_for_long_was_no_possession() -> None:
    first, second = await two()
    await report(first, ADDRESS)
    await long_ago(first)
    await report(second, ADDRESS)
    await long_ago(second)
    await report(first)
    await settle()
    assert await held(second) == [ADDRESS]
    await report(first, ADDRESS)
    await settle()
    assert await states(first, second) == [QUARANTINED, QUARANTINED]


async def test_many_claims_keep_no_other_from_being_settled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(disputes, "_AT_ONCE", 1)
    for machine in [(await make_online())[0] for _ in range(3)]:
        await report(machine, "10.1.0.1")
    liar, honest = await two()
    await report(liar, ADDRESS)
    await link(honest, ADDRESS)
    await report(honest, ADDRESS)
    await settle()
    assert await states(liar, honest) == [QUARANTINED, IN_SERVICE]


async def test_an_admin_decides(admin: Actor) -> None:
    liar, honest = await two()
    await link(liar, ADDRESS)
    await report(liar, ADDRESS)
    await report(honest, ADDRESS)
    given = [(ADDRESS, AddressKind.MANAGEMENT)]
    with pytest.raises(Conflict, match="set takeOver"):
        await set_addresses(admin, honest.id, given)
    taken = await set_addresses(admin, honest.id, given, take_over=True)
    assert taken.lifecycle is IN_SERVICE
    assert await states(liar, honest) == [QUARANTINED, IN_SERVICE]
    # What an admin gave is not taken over: that admin may have erred, and is asked.
    with pytest.raises(Conflict, match="take it from that one first"):
        await set_addresses(admin, liar.id, given, take_over=True)
    assert await settle() == 0


async def test_both_are_accepted_by_either_name(admin: Actor) -> None:
    first, second = await two()
    await report(first, ADDRESS)
    await report(second, ADDRESS)
    await settle()
    accepted = await accept_addresses(admin, first.id, [ADDRESS], "a floating one")
    assert accepted.lifecycle is IN_SERVICE
    assert await states(first, second) == [IN_SERVICE, IN_SERVICE]
    assert await settle() == 0
