"""Two machines whose hosts say that they have one address: which of them has it.

An admin's word decides, then the address that a machine's own link comes from, which no host can
merely say, then that it was held for long before it was contested. Of two that have the same to show,
neither is used until one of those speaks for one of them.
"""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from remotegpu_core.models import AddressSource, MachineAddress
from remotegpu_core.services.addresses.claims import holders
from remotegpu_core.services.claims import Standing, is_established
from remotegpu_core.states import Presence

#: Claims that are read by one query.
_AT_ONCE: Final = 500


@dataclass(frozen=True, slots=True)
class Dispute:
    """Two rows of one address in one scope, with their machines: the one that is held, and a claim
    that no admin has accepted beside it."""

    holder: MachineAddress
    claim: MachineAddress

    @property
    def is_equal(self) -> bool:
        """Whether nothing speaks for one more than for the other: both are held then."""
        return self._claimed == self._held

    @property
    def is_over(self) -> bool:
        """Whether the claim weighs more: its machine is to have the address."""
        return self._claimed > self._held

    @property
    def _held(self) -> Standing:
        return _standing(self.holder, contested_since=self.claim.created_at)

    @property
    def _claimed(self) -> Standing:
        return _standing(self.claim, contested_since=self.claim.created_at)


async def all_disputes() -> AsyncIterator[Dispute]:
    """Every one, however many there are: hostile claims keep no other from being settled."""
    after = uuid.UUID(int=0)
    while True:
        page = MachineAddress.filter(held=False, accepted_at=None, id__gt=after).order_by("id")
        claims = await page.limit(_AT_ONCE).select_related("machine")
        if not claims:
            return
        for dispute in await _with_holders(claims):
            yield dispute
        after = claims[-1].id


async def claims_against(machine_id: uuid.UUID) -> list[Dispute]:
    """Those about addresses that a machine holds."""
    held = MachineAddress.filter(machine_id=machine_id, held=True)
    claims = MachineAddress.filter(
        held=False, accepted_at=None, address__in=await held.values_list("address", flat=True)
    )
    found = await _with_holders(await claims.order_by("id").select_related("machine"))
    return [dispute for dispute in found if dispute.holder.machine_id == machine_id]


async def _with_holders(claims: list[MachineAddress]) -> list[Dispute]:
    if not claims:
        return []
    held = await holders(claim.address for claim in claims)
    return [
        Dispute(holder, claim)
        for claim in claims
        if (holder := held.get((claim.scope, claim.address)))
    ]


def _standing(row: MachineAddress, *, contested_since: int) -> Standing:
    if row.source is AddressSource.ADMIN:
        return Standing.DECIDED
    if row.machine.link_address == row.address:
        is_online = row.machine.presence is Presence.ONLINE
        return Standing.LINKED if is_online else Standing.ESTABLISHED
    if row.held and is_established(row.created_at, contested_since):
        return Standing.ESTABLISHED
    return Standing.CLAIMED
