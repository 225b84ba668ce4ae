"""Making device files say who may open them."""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from remotegpu_agent.gpu_access.access_list import READ, WRITE, read_access, write_access
from remotegpu_agent.gpu_access.device_nodes import DeviceNodes, FileParameters

_OPEN: Final = READ | WRITE

_ADVICE: Final = (
    "Set the driver's module to leave them shut: options nvidia NVreg_DeviceFileMode=0660 in "
    "/etc/modprobe.d, and load it again."
)


@dataclass(frozen=True, slots=True)
class Holder:
    """An account with GPUs; `gpu_uuids` None: with all of the host."""

    uid: int
    gpu_uuids: frozenset[str] | None


@dataclass(frozen=True, slots=True)
class _Rule:
    """`private`: these accounts and no others; else these at least."""

    path: Path
    rights: int
    uids: frozenset[int]
    private: bool


def objection(parameters: FileParameters | None) -> str | None:
    """Why the driver's settings would undo what device files say; None where they do not.

    Its helper nvidia-modprobe is run with root's rights by any program of any user that uses a GPU,
    compares each device file's mode with the module's setting, and changes it where they differ. An
    access control list with a mask of rw and nothing for others looks like 0660 to it.
    """
    if parameters is None:
        return "The NVIDIA driver is not loaded."
    if not parameters.modify or parameters.mode & 0o067 == 0o060:
        return None
    return (
        "The NVIDIA driver lets any user put the mode of the GPUs' device files back to "
        f"{parameters.mode:04o}. {_ADVICE}"
    )


class Permissions:
    """`ours`: whether a user id is one of accounts that agents make. No other is touched."""

    def __init__(self, nodes: DeviceNodes, ours: Callable[[int], bool]) -> None:
        self._nodes = nodes
        self._ours = ours

    def settle(self, holders: Collection[Holder]) -> list[Path]:
        """Let these accounts open their GPUs and nobody else any; the files that were changed.

        Raises OSError: the first file that could not be changed, after all others were.
        """
        changed, failure = [], None
        for rule in self._rules(holders):
            try:
                if self._apply(rule):
                    changed.append(rule.path)
            except FileNotFoundError:
                # Gone meanwhile, with whatever it said.
                continue
            except OSError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return changed

    def missing(self, holder: Holder) -> list[str]:
        """What the account cannot open of what it should, in words. Raises OSError."""
        minors, cards = self._nodes.minors(), self._nodes.cards()
        found = [
            f"the driver knows no device file of {uuid}"
            for uuid in sorted(holder.gpu_uuids or ())
            if minors.get(uuid) not in cards
        ]
        found += [
            f"{rule.path} is shut"
            for rule in self._rules([holder])
            if holder.uid in rule.uids and not read_access(rule.path).lets(holder.uid, rule.rights)
        ]
        return found

    def _rules(self, holders: Collection[Holder]) -> Iterator[_Rule]:
        minors = self._nodes.minors()
        for minor, path in self._nodes.cards().items():
            uids = frozenset(
                holder.uid
                for holder in holders
                if holder.gpu_uuids is None
                or minor in {minors.get(uuid) for uuid in holder.gpu_uuids}
            )
            yield _Rule(path, _OPEN, uids, private=True)
            for capability in self._nodes.capabilities(minor):
                # Whoever cannot open the card cannot use its instances, so those may stay open.
                private = not capability.modify
                yield _Rule(capability.path, READ, uids, private=private)
        everybody = frozenset(holder.uid for holder in holders)
        for path in self._nodes.common():
            yield _Rule(path, _OPEN, everybody, private=False)

    def _apply(self, rule: _Rule) -> bool:
        now = read_access(rule.path)
        other = 0 if rule.private else now.other
        users = {uid: rights for uid, rights in now.users.items() if not self._ours(uid)}
        if other & rule.rights != rule.rights:
            users |= dict.fromkeys(rule.uids, rule.rights)
        wanted = now.changed(users=users, other=other)
        if wanted == now:
            return False
        write_access(rule.path, wanted)
        return True


def entries_of(nodes: DeviceNodes, owns: Callable[[int], bool]) -> Iterator[Path]:
    """Device files that let a user in by name. Raises OSError."""
    for path in nodes.everything():
        try:
            if any(owns(uid) for uid in read_access(path).users):
                yield path
        except FileNotFoundError:
            continue


def remove_entries(paths: Iterable[Path], owns: Callable[[int], bool]) -> None:
    """Take a user's names away. Raises OSError."""
    for path in paths:
        access = read_access(path)
        users = {uid: rights for uid, rights in access.users.items() if not owns(uid)}
        write_access(path, access.changed(users=users, other=access.other))
