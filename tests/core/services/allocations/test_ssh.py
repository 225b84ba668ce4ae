"""How a user signs in to what is allocated to them, or why they cannot."""

import re

import pytest

from remotegpu_core.actor import Actor
from remotegpu_core.models import Allocation, Command, Machine
from remotegpu_core.services.addresses.admin import set_addresses
from remotegpu_core.services.allocations.accounts import account_name
from remotegpu_core.services.allocations.ssh import (
    HostKey,
    SshAccess,
    SshUnavailable,
    Unavailable,
    ssh_of,
)
from remotegpu_core.services.inventory import apply_inventory
from remotegpu_core.services.ssh_keys import add_ssh_key
from remotegpu_core.settings import Settings
from remotegpu_core.states import AllocationState, Health
from remotegpu_protocol.addresses import ANY_IPV4, ANY_IPV6
from remotegpu_protocol.inventory import (
    AccountSignIn,
    Address,
    AddressKind,
    Policy,
    SshListener,
    SshServer,
)
from remotegpu_protocol.inventory import HostKey as ReportedKey
from tests.core.hosts import gpu, inventory
from tests.core.people import make_admin, make_tenant
from tests.core.services.allocations.hosts import Host, active, carry_out, get, make_host
from tests.core.services.test_ssh_keys import make_line

pytestmark = pytest.mark.usefixtures("database")

MANAGEMENT, PUBLIC, ADDITIONAL = AddressKind
START = ["allocation.start", "allocation.update", "allocation.end"]
ACCOUNTS = Policy(commands=[*START, "account.keys"])
NO_ACCOUNTS = Policy(commands=START)


async def _report(
    host: Host, *addresses: Address, policy: Policy = ACCOUNTS, ssh: SshServer | None = None
) -> None:
    said = inventory(
        *(gpu(card.uuid, index=card.index) for card in host.gpus),
        addresses=list(addresses),
        policy=policy,
        ssh=ssh,
    )
    await apply_inventory(host.id, host.epoch, said)


async def _ssh(actor: Actor, allocation: Allocation) -> SshAccess | Unavailable:
    row = await Allocation.get(id=allocation.id)
    return (await ssh_of(actor, [row]))[row.id]


async def _why(actor: Actor, allocation: Allocation) -> SshUnavailable:
    found = await _ssh(actor, allocation)
    assert isinstance(found, Unavailable), found
    assert found.message
    return found.code


async def _where(actor: Actor, allocation: Allocation) -> SshAccess:
    found = await _ssh(actor, allocation)
    assert isinstance(found, SshAccess), found
    return found


async def test_from_nothing_to_a_sign_in(settings: Settings) -> None:
    alice, admin = await make_tenant(), await make_admin()
    host = await make_host("node-1", policy=ACCOUNTS, grant=[alice])
    allocation = await get(alice, settings, host)
    assert await _why(alice, allocation) is SshUnavailable.NOT_ACTIVE
    await carry_out(allocation)
    assert await _why(alice, allocation) is SshUnavailable.NO_SSH_KEYS
    await add_ssh_key(alice, "laptop", make_line())
    assert await _why(alice, allocation) is SshUnavailable.NO_ADDRESS
    # Neither what nobody said is for that, nor what is another machine's.
    other = await make_host("node-2", policy=ACCOUNTS)
    await _report(other, Address("10.0.0.8", MANAGEMENT))
    await _report(host, Address("10.0.0.7", ADDITIONAL), Address("10.0.0.8", MANAGEMENT))
    assert await _why(alice, allocation) is SshUnavailable.NO_ADDRESS

    await _report(host, Address("10.0.0.7", MANAGEMENT))
    name = account_name(allocation.id)
    access = SshAccess(name, "10.0.0.7", 22, [])
    assert await _where(alice, allocation) == access
    assert access.command == f"ssh {name}@10.0.0.7"
    assert await _where(admin, allocation) == access
    assert await _why(await make_tenant(), allocation) is SshUnavailable.NOT_YOURS

    key = "SHA256:VutFg0gw/7ogi/UrSb/19fas02pRM9tFec/2epyFjGs"
    await _report(
        host,
        *(Address("10.0.0.7", MANAGEMENT), Address("2600::7", PUBLIC)),
        ssh=SshServer(2222, [ReportedKey("ssh-ed25519", key)]),
    )
    access = await _where(alice, allocation)
    assert access == SshAccess(name, "2600::7", 2222, [HostKey("ssh-ed25519", key)])
    assert access.command == f"ssh -p 2222 {name}@2600::7"
    # What an admin says comes before what the agent found.
    await set_addresses(admin, host.id, [("2600::1:7", PUBLIC)])
    access = await _where(alice, allocation)
    assert access.host == "2600::1:7"
    assert re.fullmatch(r"ssh -p \d+ rg-[a-z2-7]{12}@[0-9a-f.:]+", access.command)

    await Allocation.filter(id=allocation.id).update(state=AllocationState.RECLAIMING)
    assert await _why(alice, allocation) is SshUnavailable.NOT_ACTIVE


async def test_no_account_on_its_host(settings: Settings) -> None:
    """What the host allowed when it started counts, not what it allows now."""
    alice = await make_tenant()
    await add_ssh_key(alice, "laptop", make_line())
    without = await make_host("node-1", policy=NO_ACCOUNTS, grant=[alice])
    having = await make_host("node-2", policy=ACCOUNTS, grant=[alice])
    simulated = Policy(commands=ACCOUNTS.commands, simulated=True)
    pretending = await make_host("node-3", policy=simulated, grant=[alice])
    allocations = [
        await active(alice, settings, host, gpu_ids=host.gpu(0))
        for host in (without, having, pretending)
    ]
    await _report(without, Address("10.0.0.1", MANAGEMENT), policy=ACCOUNTS)
    await _report(having, Address("10.0.0.2", MANAGEMENT), policy=NO_ACCOUNTS)
    await _report(pretending, Address("10.0.0.3", MANAGEMENT), policy=simulated)
    assert await _why(alice, allocations[0]) is SshUnavailable.NO_ACCOUNT_ON_HOST
    assert (await _where(alice, allocations[1])).host == "10.0.0.2"
    assert await _why(alice, allocations[2]) is SshUnavailable.SIMULATED
    # All in one go, as a list of allocations asks.
    found = await ssh_of(alice, await Allocation.all())
    assert [isinstance(found[row.id], SshAccess) for row in allocations] == [False, True, False]
    # Commands are forgotten some day: then what the host allows now has to say it.
    await Command.all().delete()
    assert await _why(alice, allocations[1]) is SshUnavailable.NO_ACCOUNT_ON_HOST
    await _report(having, Address("10.0.0.2", MANAGEMENT))
    assert (await _where(alice, allocations[1])).host == "10.0.0.2"


async def test_what_its_host_does_not_let_in(settings: Settings) -> None:
    """Told before anybody allocates, and again for the account that was made."""
    alice = await make_tenant()
    await add_ssh_key(alice, "laptop", make_line())
    host = await make_host("node-1", policy=ACCOUNTS, grant=[alice])
    where = Address("10.0.0.7", MANAGEMENT)
    reason = "In sshd's configuration AllowUsers names none of these accounts."
    refusing = SshServer(refusal=reason)
    await _report(host, where, ssh=refusing)
    machine = await Machine.get(id=host.id)
    assert machine.health is Health.DEGRADED
    assert machine.health_reasons == [f"Allocations cannot be signed in to by SSH: {reason}"]
    # A host whose policy makes no accounts promises nothing.
    await _report(host, where, ssh=refusing, policy=NO_ACCOUNTS)
    assert (await Machine.get(id=host.id)).health is Health.HEALTHY

    await _report(host, where, ssh=refusing)
    allocation = await active(alice, settings, host)
    found = await _ssh(alice, allocation)
    assert isinstance(found, Unavailable)
    assert (found.code, reason in found.message) == (SshUnavailable.REFUSED_BY_HOST, True)
    # An account may differ from those that come.
    own = AccountSignIn(account_name(allocation.id))
    await _report(host, where, ssh=SshServer(refusal=reason, accounts=[own]))
    assert (await _where(alice, allocation)).host == "10.0.0.7"
    own = AccountSignIn(own.account, "DenyUsers keeps it out.")
    await _report(host, where, ssh=SshServer(accounts=[own]))
    assert await _why(alice, allocation) is SshUnavailable.REFUSED_BY_HOST


async def test_the_port_on_which_its_address_is_listened_on(settings: Settings) -> None:
    alice, admin = await make_tenant(), await make_admin()
    await add_ssh_key(alice, "laptop", make_line())
    host = await make_host("node-1", policy=ACCOUNTS, grant=[alice])
    allocation = await active(alice, settings, host)
    where = [Address("10.0.0.7", MANAGEMENT), Address("2600::7", PUBLIC)]

    async def listening(*listeners: tuple[str, int]) -> None:
        found = [SshListener(*one) for one in listeners]
        await _report(host, *where, ssh=SshServer(listeners[0][1], listeners=found))

    async def reached() -> tuple[str, int]:
        access = await _where(alice, allocation)
        return access.host, access.port

    await listening((ANY_IPV4, 2200), (ANY_IPV6, 22))
    assert await reached() == ("2600::7", 22)
    await listening((ANY_IPV4, 2200))
    assert await reached() == ("10.0.0.7", 2200)
    await listening(("10.0.0.8", 22), ("2600::7", 2222))
    assert await reached() == ("2600::7", 2222)
    await listening(("10.0.0.8", 22))
    assert await _why(alice, allocation) is SshUnavailable.NO_ADDRESS
    # An address that is translated on the way is none of the host's.
    await set_addresses(admin, host.id, [("192.0.2.1", PUBLIC)])
    assert await reached() == ("192.0.2.1", 22)
