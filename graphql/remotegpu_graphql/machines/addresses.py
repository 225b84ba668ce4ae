"""IP addresses of machines, and what admins do about them."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import strawberry

from remotegpu_core import models
from remotegpu_core.models import AddressSource
from remotegpu_core.services.addresses import scope
from remotegpu_graphql.context import Info
from remotegpu_graphql.enums import graph_enum
from remotegpu_graphql.scalars import DateTime
from remotegpu_protocol.inventory import AddressKind

if TYPE_CHECKING:
    from remotegpu_graphql.machines.types import Machine


class AddressScope(StrEnum):
    GLOBAL = "GLOBAL"
    SITE = "SITE"


graph_enum(
    AddressKind,
    "What an address is for.",
    {
        "MANAGEMENT": "The machine's agent dials from it, or an admin manages the machine by it.",
        "PUBLIC": "Routable worldwide, or where an admin says that users reach the machine.",
        "ADDITIONAL": "Any other.",
    },
)
graph_enum(
    AddressScope,
    "Within what an address is one machine's.",
    {
        "GLOBAL": "It is routable worldwide, and one machine's in the whole world.",
        "SITE": "It is private: one machine's among those whose label `site` is the same.",
    },
)
graph_enum(
    AddressSource,
    "Who says that a machine has an address.",
    {"AGENT": "Its agent, which found it on an interface.", "ADMIN": "An admin."},
)


@strawberry.type(description="An IP address of a machine.")
class Address:
    row: strawberry.Private[models.MachineAddress]
    address: str = strawberry.field(description="IPv4 or IPv6, in its shortest spelling.")
    kind: AddressKind = strawberry.field(description="What it is for.")
    interface: str | None = strawberry.field(description="The network interface that has it.")
    source: AddressSource = strawberry.field(description="Who says that the machine has it.")
    scope: AddressScope = strawberry.field(description="Within what it is one machine's.")
    site: str | None = strawberry.field(
        description="Of the scope SITE, which site; null for machines without the label `site`."
    )
    contested: bool = strawberry.field(
        description="Whether another machine has it in the same scope. That keeps this machine "
        "QUARANTINED until it is not so any more, or accepted."
    )
    accepted_at: DateTime | None = strawberry.field(
        description="When an admin accepted that both have it."
    )

    @strawberry.field(
        description="Of a contested one, the machine that has it, for admins; null otherwise."
    )
    async def holder(
        self, info: Info
    ) -> Annotated["Machine", strawberry.lazy("remotegpu_graphql.machines.types")] | None:
        # They mention each other.
        from remotegpu_graphql.machines.types import Machine as Shown

        if self.row.held:
            return None
        row = await info.context.loaders.address_holder.load(self.row.id)
        return None if row is None else Shown.of(row)

    @classmethod
    def of(cls, row: models.MachineAddress) -> "Address":
        return cls(
            row=row,
            address=row.address,
            kind=AddressKind(row.kind),
            interface=row.interface,
            source=AddressSource(row.source),
            scope=AddressScope.GLOBAL if row.scope == scope.GLOBAL else AddressScope.SITE,
            site=scope.site_in(row.scope),
            contested=not row.held,
            accepted_at=None if row.accepted_at is None else DateTime(row.accepted_at),
        )
