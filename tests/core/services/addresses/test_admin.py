"""What admins do about addresses."""

import uuid

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.errors import Conflict, Forbidden, InvalidInput, LimitExceeded, NotFound
from remotegpu_core.models import AddressSource, AuditEvent, Machine, MachineAddress
from remotegpu_core.services import hosts, retirement
from remotegpu_core.services.addresses.admin import MAX_GIVEN, accept_addresses, set_addresses
from remotegpu_core.services.addresses.quarantine import settle
from remotegpu_core.services.addresses.reading import addresses_of, machines_that_hold
from remotegpu_core.services.allocations.override import override_quarantine
from remotegpu_core.services.ledger import ledger
from remotegpu_core.services.quarantine import CauseCode
from remotegpu_protocol.inventory import Address, AddressKind
from tests.core.hosts import make_online
from tests.core.people import make_tenant
from tests.core.services.addresses.reports import (
    IN_SERVICE,
    QUARANTINED,
    audited,
    contested,
    held,
    lifecycle,
    reason,
    report,
)

pytestmark = pytest.mark.usefixtures("database")

MANAGEMENT, PUBLIC, ADDITIONAL = AddressKind


async def shown(machine: Machine) -> list[tuple[str, AddressKind, AddressSource]]:
    rows = (await addresses_of([machine.id]))[machine.id]
    return [(row.address, row.kind, row.source) for row in rows]


async def test_given_beside_what_is_reported(admin: Actor) -> None:
    machine, _ = await make_online()
    await report(machine, "10.0.0.7", "10.0.0.8")
    await set_addresses(
        admin, machine.id, [("2600:0::7", PUBLIC), ("10.0.0.8", MANAGEMENT), ("8.8.8.8", PUBLIC)]
    )
    expected = [
        ("10.0.0.8", MANAGEMENT, AddressSource.ADMIN),
        ("2600::7", PUBLIC, AddressSource.ADMIN),
        ("8.8.8.8", PUBLIC, AddressSource.ADMIN),
        ("10.0.0.7", ADDITIONAL, AddressSource.AGENT),
    ]
    assert await shown(machine) == expected
    # The agent's next report leaves what was given.
    await report(machine, "10.0.0.7", "10.0.0.8", "10.0.0.9")
    assert await shown(machine) == [*expected, ("10.0.0.9", ADDITIONAL, AddressSource.AGENT)]
    await report(machine)
    assert await shown(machine) == expected[:3]
    # What is not given any more goes, or is the agent's again.
    await report(machine, "10.0.0.8")
    await set_addresses(admin, machine.id, [("8.8.8.8", MANAGEMENT)])
    assert await shown(machine) == [
        ("8.8.8.8", MANAGEMENT, AddressSource.ADMIN),
        ("10.0.0.8", ADDITIONAL, AddressSource.AGENT),
    ]
    assert (await audited("setMachineAddresses"))[-1] == {
        "machine": machine.name,
        "changed": "yes",
        "8.8.8.8": "MANAGEMENT",
    }
    await set_addresses(admin, machine.id, [("8.8.8.8", MANAGEMENT)])
    assert (await audited("setMachineAddresses"))[-1]["changed"] == "no"


async def test_what_another_machine_has_is_not_given(admin: Actor) -> None:
    first, _ = await make_online("first")
    second, _ = await make_online("second")
    await report(first, "10.0.0.7")
    with pytest.raises(Conflict, match="'first'") as refused:
        await set_addresses(
            admin, second.id, [("10.0.0.8", PUBLIC), ("::ffff:10.0.0.7", MANAGEMENT)]
        )
    assert refused.value.field == ["addresses", "1", "address"]
    assert (await shown(second), await lifecycle(second)) == ([], IN_SERVICE)
    # The other way round, it is the host that says so which is kept out.
    await set_addresses(admin, second.id, [("10.0.0.8", MANAGEMENT)])
    await report(first, "10.0.0.7", "10.0.0.8")
    assert (await held(first), await lifecycle(first)) == (["10.0.0.7"], QUARANTINED)
    await set_addresses(admin, second.id, [])
    await settle()
    assert (await held(first), await lifecycle(first)) == (["10.0.0.7", "10.0.0.8"], IN_SERVICE)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        *((text, "Expected") for text in ("", "node-1", "010.0.0.7", "10.0.0.0/8", "1.2.3.4 #")),
        *((text, "Expected") for text in ("10.0.0.7\n; reboot", "$(reboot)", "::x", "-oProxy=1")),
        *(
            (text, "Nobody else")
            for text in ("127.0.0.1", "::1", "fe80::1%eth0", "255.255.255.255")
        ),
        ("::ffff:10.0.0.1", "twice"),
    ],
)
async def test_grammar_of_addresses(admin: Actor, address: str, why: str) -> None:
    machine, _ = await make_online()
    with pytest.raises(InvalidInput, match=why) as refused:
        await set_addresses(admin, machine.id, [("10.0.0.1", PUBLIC), (address, PUBLIC)])
    assert refused.value.field == ["addresses", "1", "address"]
    assert await shown(machine) == []


async def test_not_too_many(admin: Actor) -> None:
    machine, _ = await make_online()
    given = [(f"10.0.0.{number}", ADDITIONAL) for number in range(1, MAX_GIVEN + 2)]
    with pytest.raises(LimitExceeded):
        await set_addresses(admin, machine.id, given)
    await set_addresses(admin, machine.id, given[:-1])
    # A host that reports all that it may stands beside.
    await report(machine, *(f"10.1.0.{number}" for number in range(1, 65)))
    assert len(await held(machine)) == MAX_GIVEN + 64


async def test_accepting_is_a_way_out(admin: Actor) -> None:
    first, _ = await make_online("first")
    second, _ = await make_online("second")
    await report(first, "10.0.0.7", "10.0.0.8")
    await report(second, "10.0.0.7", "10.0.0.8")
    with pytest.raises(Conflict, match="acceptMachineAddresses"):
        await override_quarantine(admin, second.id, "never mind")
    accepted = await accept_addresses(admin, second.id, ["::ffff:10.0.0.7"], "a floating one")
    # The other one has been seen by nobody yet.
    assert accepted.lifecycle is QUARANTINED
    assert "10.0.0.7" not in await reason(second)
    accepted = await accept_addresses(admin, second.id, ["10.0.0.8"], "a floating one")
    assert (accepted.lifecycle, accepted.lifecycle_reason) == (IN_SERVICE, None)
    assert (await audited("acceptMachineAddresses"))[0] == {
        "machine": "second",
        "reason": "a floating one",
        "10.0.0.7": "'first' has it among machines without the label 'site'",
    }
    # It stays so while nothing changes, and the first one still holds it.
    await report(second, "10.0.0.7", "10.0.0.8")
    assert await settle() == 0
    assert (await lifecycle(second), await held(first)) == (IN_SERVICE, ["10.0.0.7", "10.0.0.8"])
    # What was accepted is over when it is given up, by either.
    await report(first, "10.0.0.8")
    await settle()
    assert (await held(second), await lifecycle(second)) == (["10.0.0.7"], IN_SERVICE)
    await report(second, "10.0.0.7")
    await report(second, "10.0.0.7", "10.0.0.8")
    assert (await contested(second), await lifecycle(second)) == (["10.0.0.8"], QUARANTINED)


async def test_only_what_is_contested_is_accepted(admin: Actor) -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    await report(first, "10.0.0.7")
    await report(second, "10.0.0.7", "10.0.0.9")
    for addresses in (["10.0.0.9"], ["10.0.0.7", "10.0.0.1"], ["x"], [""]):
        with pytest.raises(NotFound) as refused:
            await accept_addresses(admin, second.id, addresses, "so be it")
        assert refused.value.field == ["addresses", str(len(addresses) - 1)]
    with pytest.raises(NotFound):
        # What nothing contests.
        await accept_addresses(admin, first.id, ["10.0.0.9"], "so be it")
    for addresses, why in ((["10.0.0.7"], ""), (["10.0.0.7"], "x" * 501), ([], "so be it")):
        with pytest.raises(InvalidInput):
            await accept_addresses(admin, second.id, addresses, why)
    assert await contested(second) == ["10.0.0.7"]
    assert await lifecycle(second) is QUARANTINED


async def test_a_host_that_is_held_as_well_is_accepted_into_the_quarantine(admin: Actor) -> None:
    first, _ = await make_online()
    second, _ = await make_online()
    async with ledger(second.id):
        await hosts.hold(second.id, CauseCode.HOST_CLONED, hosts.CLONED)
    await report(first, "10.0.0.7")
    await report(second, "10.0.0.7")
    assert (await reason(second)).startswith(hosts.CLONED)
    accepted = await hosts.accept_host(admin, second.id)
    assert accepted.lifecycle is QUARANTINED
    assert "10.0.0.7" in await reason(second)


async def test_who_holds_it_is_for_admins(admin: Actor) -> None:
    first, _ = await make_online("first")
    second, _ = await make_online("second")
    await report(first, "10.0.0.7")
    await report(second, "10.0.0.7")
    row = await MachineAddress.get(held=False)
    assert (await machines_that_hold(admin, [row.id]))[row.id].name == "first"
    assert await machines_that_hold(await make_tenant(), [row.id]) == {}


async def test_only_admins_and_only_what_is_there(admin: Actor) -> None:
    first, _ = await make_online()
    machine, tenant = (await make_online())[0], await make_tenant()
    await report(first, "10.0.0.7")
    await report(machine, Address("10.0.0.7", PUBLIC))
    before = await AuditEvent.all().count()
    for actor, machine_id, refusal in (
        (tenant, machine.id, Forbidden),
        (admin, uuid.uuid4(), NotFound),
    ):
        expected: type[Exception] = refusal
        with pytest.raises(expected):
            await set_addresses(actor, machine_id, [("10.0.0.9", PUBLIC)])
        with pytest.raises(expected):
            await accept_addresses(actor, machine_id, ["10.0.0.7"], "so be it")
    assert await AuditEvent.all().count() == before
    assert await contested(machine) == ["10.0.0.7"]
    await retirement.retire(admin, machine.id)
    with pytest.raises(Conflict, match="retired"):
        await set_addresses(admin, machine.id, [("10.0.0.9", PUBLIC)])
