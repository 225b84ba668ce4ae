"""What one link of a machine writes to, and what of it waits for the next batch."""

import functools
from uuid import UUID

from remotegpu_core.bus import keys
from remotegpu_core.bus.samples import STAMP


def bulk(data: bytes) -> bytes:
    """`data` as one argument in Redis's protocol."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


class Outlet:
    """The link `epoch` of a machine, its keys and channel ready for the wire.

    `waiting` are samples that the next batch takes along, oldest first, as arguments.
    """

    __slots__ = ("channel", "epoch", "key", "note_key", "waiting")

    def __init__(self, machine_id: UUID, epoch: int) -> None:
        self.epoch = epoch
        self.key = bulk(keys.latest_key(machine_id).encode())
        self.channel = bulk(keys.sample_channel(machine_id).encode())
        self.note_key = bulk(keys.presence_key(machine_id).encode())
        self.waiting: list[bytes] = []

    def pack(self, sampled_at: int, message: bytes) -> bytes:
        """A sample as an argument; what `bulk` makes of what `Sample.pack` does, copied once."""
        # Lengths repeat, and to write one out costs more than all the rest.
        head = _head(STAMP.size + len(message))
        return b"".join((head, STAMP.pack(self.epoch, sampled_at), message, b"\r\n"))


@functools.lru_cache(maxsize=4096)
def _head(length: int) -> bytes:
    """What stands before an argument of so many bytes."""
    return b"$%d\r\n" % length
