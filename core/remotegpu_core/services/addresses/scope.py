"""Which addresses tell a machine from others, and within what.

An address that is routable worldwide is one machine's in the whole world. Private ones are one
machine's within its site, which the label `site` names: several sites may use the same networks.
Machines without that label are one site.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from remotegpu_core.models import AddressSource, MachineLabel
from remotegpu_protocol.addresses import IPAddress, is_reachable, parse_address
from remotegpu_protocol.inventory import AddressKind

#: The label that names a machine's site.
SITE_LABEL: Final = "site"

#: The scope of an address that is routable worldwide; others have the site's name behind _SITE.
GLOBAL: Final = ""
_SITE: Final = "site:"


@dataclass(frozen=True, slots=True)
class Said:
    """An address that somebody says a machine has."""

    address: IPAddress
    kind: AddressKind
    interface: str | None = None
    source: AddressSource = AddressSource.AGENT


def scope_of(address: IPAddress, site: str) -> str:
    return GLOBAL if address.is_global else f"{_SITE}{site}"


def site_in(scope: str) -> str | None:
    """The site's name; None of the scope GLOBAL, and of machines without a site."""
    return scope.removeprefix(_SITE) or None


def describe(scope: str) -> str:
    """As it stands in a message: '10.0.0.7 <is another machine's> at the site x'."""
    if scope == GLOBAL:
        return "worldwide"
    site = site_in(scope)
    return f"at the site {site!r}" if site else f"among machines without the label {SITE_LABEL!r}"


async def site_of(machine_id: uuid.UUID) -> str:
    label = await MachineLabel.get_or_none(machine_id=machine_id, key=SITE_LABEL)
    return label.value if label else ""


def reported(host: Mapping[str, Any]) -> list[Said]:
    """Of the addresses in an inventory's host, those that others may reach it by.

    Which interfaces lead out of a host only its agent can see: it leaves the others out.
    """
    return list(_reported(host.get("addresses", [])))


def _reported(said: Iterable[Mapping[str, Any]]) -> Iterable[Said]:
    for entry in said:
        address, interface = parse_address(entry["address"]), entry.get("interface")
        if address is not None and is_reachable(address):
            yield Said(address, AddressKind(entry["kind"]), interface)
