"""Samples and presence notes that wait, and the few commands that a batch of them becomes."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from remotegpu_core.bus.outlet import Outlet, bulk
from remotegpu_core.bus.scripts import KEEP_SAMPLES, NOTE_PRESENCE
from remotegpu_protocol.limits import LOST_AFTER

#: Milliseconds that a latest sample and a presence note outlive the machine's last word.
SNAPSHOT_LIFETIME: Final = int(LOST_AFTER * 1000)

#: Samples, and notes, of one batch, and bytes of its samples unless one machine's alone are more.
#: Redis does nothing else for the few milliseconds that it takes.
MAX_BATCH: Final = 2048
MAX_BATCH_BYTES: Final = 2 * 1024 * 1024

_EVAL: Final = bulk(b"EVAL")
_KEEP: Final = bulk(KEEP_SAMPLES)
_NOTE: Final = bulk(NOTE_PRESENCE)
_LIFETIME: Final = bulk(b"%d" % SNAPSHOT_LIFETIME)
_ONE: Final = bulk(b"1")


#: How many were lost, and why.
Refusal = tuple[int, str]


@dataclass(frozen=True, slots=True)
class Batch:
    """Commands in Redis's protocol, and how much there is in each of them."""

    commands: bytes
    counts: tuple[int, ...]

    def refusals(self, answers: Iterable[object]) -> list[Refusal]:
        """What the scripts' answers say was not kept."""
        found: list[Refusal] = []
        for count, answer in zip(self.counts, answers, strict=True):
            if isinstance(answer, Exception):
                found.append((count, str(answer)))
            elif isinstance(answer, list):
                lost, reason = answer
                found.append((int(lost), reason.decode(errors="replace")))
        return found


class Waiting:
    """Filled by links, emptied by the writer. `count` and `size` (bytes of samples) are kept up."""

    def __init__(self) -> None:
        self.size = 0
        self._samples = 0
        #: Outlets with something waiting; a dict, since it keeps the order and knows what it has.
        self._outlets: dict[Outlet, None] = {}
        #: By key, so that a machine's newer note replaces an older one that has not gone yet.
        self._notes: dict[bytes, tuple[int, int]] = {}

    @property
    def count(self) -> int:
        return self._samples + len(self._notes)

    def add(self, outlet: Outlet, sampled_at: int, message: bytes) -> None:
        sample = outlet.pack(sampled_at, message)
        waiting = outlet.waiting
        if not waiting:
            self._outlets[outlet] = None
        waiting.append(sample)
        self._samples += 1
        self.size += len(sample)

    def supersede(self, outlet: Outlet, sampled_at: int, message: bytes) -> bool:
        """Put a sample in the place of the outlet's newest; False when none waits."""
        waiting = outlet.waiting
        if not waiting:
            return False
        sample = outlet.pack(sampled_at, message)
        self.size += len(sample) - len(waiting[-1])
        waiting[-1] = sample
        return True

    def note(self, outlet: Outlet, seen_at: int) -> None:
        held = self._notes.get(outlet.note_key)
        if held is None or held <= (outlet.epoch, seen_at):
            self._notes[outlet.note_key] = (outlet.epoch, seen_at)

    def take(self) -> Batch:
        """The oldest of what waits, which no longer does."""
        scripts = [self._take_samples(), self._take_notes()]
        return Batch(
            b"".join(command for command, _ in scripts),
            tuple(count for _, count in scripts if count),
        )

    def clear(self) -> int:
        """Forget everything; how much that was."""
        forgotten = self.count
        for outlet in self._outlets:
            outlet.waiting = []
        self._outlets.clear()
        self._notes.clear()
        self._samples = self.size = 0
        return forgotten

    def _take_samples(self) -> tuple[bytes, int]:
        keys: list[bytes] = []
        values: list[bytes] = []
        taken = size = 0
        while self._outlets and taken < MAX_BATCH and size < MAX_BATCH_BYTES:
            outlet = next(iter(self._outlets))
            samples, outlet.waiting = outlet.waiting, []
            if taken + len(samples) <= MAX_BATCH:
                del self._outlets[outlet]
            else:
                # It stays where it is: the first of the next batch.
                outlet.waiting = samples[MAX_BATCH - taken :]
                del samples[MAX_BATCH - taken :]
            keys.append(outlet.key)
            values.append(outlet.channel)
            values.append(_ONE if len(samples) == 1 else bulk(b"%d" % len(samples)))
            values += samples
            taken += len(samples)
            size += sum(map(len, samples))
        self._samples -= taken
        self.size -= size
        return _script(_KEEP, keys, values), taken

    def _take_notes(self) -> tuple[bytes, int]:
        taken = dict(islice(self._notes.items(), MAX_BATCH))
        for key in taken:
            del self._notes[key]
        values = [bulk(b"%d" % number) for note in taken.values() for number in note]
        return _script(_NOTE, list(taken), values), len(taken)


def _script(script: bytes, keys: list[bytes], values: list[bytes]) -> bytes:
    """The command that runs a script; nothing without keys."""
    if not keys:
        return b""
    head = b"*%d\r\n" % (4 + len(keys) + len(values))
    count = bulk(b"%d" % len(keys))
    return b"".join([head, _EVAL, script, count, *keys, _LIFETIME, *values])
