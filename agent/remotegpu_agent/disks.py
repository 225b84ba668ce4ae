"""The block devices of a host."""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import Disk
from remotegpu_protocol.limits import MAX_DISKS

#: Bytes; /sys/block/*/size counts in these, whatever the device's own sectors are.
_SECTOR: Final = 512
#: How identifiers begin that the standards call unique in the world (SCSI VPD page 83, NVMe).
_UNIQUE: Final = ("naa.", "eui.", "uuid.")


def host_disks(block: Path = Path("/sys/block")) -> list[Disk]:
    """Block devices that hold data, in the order of their names, each once.

    Not layers over others (device mapper, software RAID, loop devices, memory), which have no device
    behind them; nor media that are put in and out; nor further paths to a disk that is listed.
    """
    try:
        places = sorted(entry for entry in block.iterdir() if _is_disk(entry))
    except OSError:
        return []
    return [disk for place in _once(places) if (disk := _disk(place)) is not None][:MAX_DISKS]


def _is_disk(place: Path) -> bool:
    return (
        (place / "device").exists()
        # A path to a disk of NVMe's own multipathing.
        and _read(place / "hidden") != "1"
        and _read(place / "removable") != "1"
    )


def _once(places: Iterable[Path]) -> Iterable[Path]:
    seen: set[str] = set()
    for place in places:
        identity = _identity(place)
        if identity is None:
            yield place
        elif identity not in seen:
            seen.add(identity)
            yield place


def _identity(place: Path) -> str | None:
    """What all paths to the disk have in common; None where the kernel does not tell."""
    for holder in sorted((place / "holders").glob("*")):
        uuid = _read(holder / "dm" / "uuid") or ""
        if uuid.startswith("mpath-"):
            return uuid
    identifier = _read(place / "wwid") or _read(place / "device" / "wwid") or ""
    if not identifier.startswith(_UNIQUE):
        return None
    return f"{identifier} {_read(place / 'size')}"


def _disk(place: Path) -> Disk | None:
    sectors = _read(place / "size")
    size = int(sectors) * _SECTOR if sectors is not None and sectors.isdigit() else None
    if not size:
        # A card reader, or a bay, with nothing in it.
        return None
    rotational = _read(place / "queue" / "rotational")
    return Disk(
        name=clean_text(place.name),
        size=size,
        model=clean_text(_read(place / "device" / "model") or "") or None,
        rotational=None if rotational is None else rotational == "1",
    )


def _read(path: Path) -> str | None:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return None
