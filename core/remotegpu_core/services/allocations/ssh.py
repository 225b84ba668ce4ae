"""How a user signs in to what is allocated to them, or why they cannot."""

import uuid
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, cast

from remotegpu_core.actor import Actor
from remotegpu_core.models import (
    AddressSource,
    Allocation,
    Command,
    Machine,
    MachineAddress,
    SshKey,
)
from remotegpu_core.services.addresses.reading import addresses_of
from remotegpu_core.services.allocations.accounts import account_name, makes_accounts
from remotegpu_core.states import AllocationState, CommandState
from remotegpu_protocol.addresses import ANY_IPV4, ANY_IPV6
from remotegpu_protocol.inventory import AddressKind
from remotegpu_protocol.kinds import ACCOUNT_KEYS, ALLOCATION_START

#: sshd's port where the agent tells none.
PORT: Final = 22


class SshUnavailable(StrEnum):
    NOT_YOURS = "NOT_YOURS"
    NOT_ACTIVE = "NOT_ACTIVE"
    SIMULATED = "SIMULATED"
    NO_ACCOUNT_ON_HOST = "NO_ACCOUNT_ON_HOST"
    NO_SSH_KEYS = "NO_SSH_KEYS"
    NO_ADDRESS = "NO_ADDRESS"
    REFUSED_BY_HOST = "REFUSED_BY_HOST"


@dataclass(frozen=True, slots=True)
class Unavailable:
    """`message` is for people."""

    code: SshUnavailable
    message: str


@dataclass(frozen=True, slots=True)
class HostKey:
    """`fingerprint` as `ssh-keygen -l` shows it."""

    algorithm: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SshAccess:
    username: str
    host: str
    port: int
    host_keys: Sequence[HostKey] = field(default=())

    @property
    def command(self) -> str:
        """What a person types. Host and user name are of grammars without spaces or options."""
        port = "" if self.port == PORT else f"-p {self.port} "
        return f"ssh {port}{self.username}@{self.host}"


async def ssh_of(
    actor: Actor, allocations: Collection[Allocation]
) -> dict[uuid.UUID, SshAccess | Unavailable]:
    """By allocation; for the caller, who sees them.

    Only its user and those who see all machines are told how: others in its workspace see that it
    is there.
    """
    found: dict[uuid.UUID, SshAccess | Unavailable] = {}
    asking: list[Allocation] = []
    for allocation in allocations:
        if not (actor.sees_all_machines or allocation.user_id == actor.user_id):
            found[allocation.id] = Unavailable(
                SshUnavailable.NOT_YOURS, "Only the user of an allocation signs in to it."
            )
        elif allocation.state is not AllocationState.ACTIVE or allocation.machine_id is None:
            found[allocation.id] = Unavailable(
                SshUnavailable.NOT_ACTIVE,
                f"This allocation is {allocation.state}: it is signed in to while it is ACTIVE.",
            )
        else:
            asking.append(allocation)
    if not asking:
        return found
    machine_ids = list({row.machine_id for row in asking if row.machine_id is not None})
    machines = {row.id: row for row in await Machine.filter(id__in=machine_ids)}
    addresses = await addresses_of(machine_ids)
    accounts = await _accounts([row.id for row in asking])
    users = SshKey.filter(user_id__in=list({row.user_id for row in asking}))
    keyed = set(cast("list[uuid.UUID]", await users.values_list("user_id", flat=True)))
    for allocation in asking:
        machine = machines[cast("uuid.UUID", allocation.machine_id)]
        found[allocation.id] = _access(
            allocation,
            machine,
            addresses[machine.id],
            # Where the command is long forgotten, what the host allows now says it.
            has_account=accounts.get(allocation.id, makes_accounts(machine)),
            has_keys=allocation.user_id in keyed,
        )
    return found


def _access(
    allocation: Allocation,
    machine: Machine,
    addresses: Sequence[MachineAddress],
    *,
    has_account: bool,
    has_keys: bool,
) -> SshAccess | Unavailable:
    if (machine.host.get("policy") or {}).get("simulated", False):
        return Unavailable(
            SshUnavailable.SIMULATED, "Its host is simulated: there is nothing to sign in to."
        )
    if not has_account:
        return Unavailable(
            SshUnavailable.NO_ACCOUNT_ON_HOST,
            "It has no account on its host: the host's policy file did not enable "
            f"{ACCOUNT_KEYS.name} when it started.",
        )
    if not has_keys:
        return Unavailable(
            SshUnavailable.NO_SSH_KEYS, "Its user has no SSH key: add one with addSshKey."
        )
    username = account_name(allocation.id)
    server: Mapping[str, Any] = machine.host.get("ssh") or {}
    refusal = _refusal(server, username)
    if refusal is not None:
        return Unavailable(
            SshUnavailable.REFUSED_BY_HOST, f"Its host does not let its account in. {refusal}"
        )
    usable = _usable(addresses)
    if not usable:
        return Unavailable(
            SshUnavailable.NO_ADDRESS,
            "Its machine has no management or public address that is its own: an admin can give "
            "it one with setMachineAddresses.",
        )
    reached = next((found for row in usable if (found := _listens(row, server))), None)
    if reached is None:
        return Unavailable(
            SshUnavailable.NO_ADDRESS,
            "The SSH server of its host listens on none of its machine's management and public "
            "addresses: set ListenAddress in its configuration and restart it.",
        )
    host, port = reached
    return SshAccess(
        username=username,
        host=host,
        port=port,
        host_keys=[
            HostKey(key["algorithm"], key["fingerprint"]) for key in server.get("host_keys", [])
        ],
    )


def _refusal(server: Mapping[str, Any], username: str) -> str | None:
    """Why the host's sshd does not let this account in, as its agent last said."""
    for account in server.get("accounts", []):
        if account["account"] == username:
            own: str | None = account.get("refusal")
            return own
    refusal: str | None = server.get("refusal")
    return refusal


def _listens(row: MachineAddress, server: Mapping[str, Any]) -> tuple[str, int] | None:
    """The address and the port on which sshd listens there; None where it does not.

    What an admin said may be translated to another address on the way: the first port then.
    """
    listeners = server.get("listeners", [])
    for listener in listeners:
        if listener["address"] == row.address or _is_all(listener["address"], row.address):
            return row.address, listener["port"]
    if listeners and row.source is not AddressSource.ADMIN:
        return None
    return row.address, server.get("port", PORT)


def _is_all(listened: str, address: str) -> bool:
    return listened == (ANY_IPV6 if ":" in address else ANY_IPV4)


def _usable(addresses: Sequence[MachineAddress]) -> list[MachineAddress]:
    """Public before management, what an admin said before what the agent found.

    Not one that another machine has: that could be where it leads.
    """
    order = [AddressKind.PUBLIC, AddressKind.MANAGEMENT]
    usable = [row for row in addresses if row.held and row.kind in order]
    usable.sort(key=lambda row: (order.index(row.kind), row.source is not AddressSource.ADMIN))
    return usable


async def _accounts(allocation_ids: Sequence[uuid.UUID]) -> dict[uuid.UUID, bool]:
    """Whether the command that started an allocation made an account for it."""
    started = Command.filter(
        allocation_id__in=list(allocation_ids),
        kind=ALLOCATION_START.name,
        state=CommandState.SUCCEEDED,
    )
    rows = cast(
        "list[tuple[uuid.UUID, dict[str, Any]]]",
        await started.values_list("allocation_id", "arguments"),
    )
    return {allocation_id: bool(arguments.get("account")) for allocation_id, arguments in rows}
