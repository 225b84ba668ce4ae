"""Messages whose fields are of the right type, and whose values make no sense together."""

from collections.abc import Collection, Iterable, Sequence

from remotegpu_protocol.addresses import parse_address
from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import clean_text, shorten
from remotegpu_protocol.inventory import GpuHealth, Inventory


def check_sequences(last: int | None, acknowledged: int | None) -> None:
    """Of a hello's journal; raises InvalidValue."""
    if acknowledged is not None and acknowledged > (last or 0):
        raise InvalidValue(
            f"acknowledged_sequence: expected at most last_sequence, {last or 0}; got "
            f"{acknowledged}."
        )


def check_inventory(inventory: Inventory) -> None:
    """Raises InvalidValue, whose text begins with the field.

    A card that is UNHEALTHY may have the index of another: it fell off the bus, and the others
    were numbered anew.
    """
    for position, address in enumerate(inventory.host.addresses):
        if parse_address(address.address) is None:
            raise InvalidValue(
                f"host.addresses[{position}].address: expected an IPv4 address of four decimal "
                "numbers without leading zeros, or an IPv6 address; got "
                f"{shorten(clean_text(address.address))!r}."
            )
    _check_once("uuid", enumerate(gpu.uuid for gpu in inventory.gpus))
    _check_once(
        "index",
        (
            (position, gpu.index)
            for position, gpu in enumerate(inventory.gpus)
            if gpu.health is not GpuHealth.UNHEALTHY
        ),
    )


def check_sampled_gpus(uuids: Sequence[str], known: Collection[str] | None) -> None:
    """The GPUs of a sample, against those of the connection's newest inventory; raises InvalidValue.

    `known` is None before the first inventory, which takes a host longer to read than a sample.
    """
    _check_once("uuid", enumerate(uuids))
    for position, uuid in enumerate(uuids):
        if known is not None and uuid not in known:
            raise InvalidValue(
                f"gpus[{position}].uuid: expected a GPU of this connection's newest inventory, got "
                f"{_shown(uuid)}. Send an inventory with it first."
            )


def _check_once(field: str, values: Iterable[tuple[int, object]]) -> None:
    seen: dict[object, int] = {}
    for position, value in values:
        if value in seen:
            raise InvalidValue(
                f"gpus[{position}].{field}: expected one that no other GPU of the message has; "
                f"{_shown(value)} is that of gpus[{seen[value]}] too."
            )
        seen[value] = position


def _shown(value: object) -> str:
    return repr(shorten(clean_text(value)) if isinstance(value, str) else value)
