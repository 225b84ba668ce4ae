"""A user who has filled the disk on which the agent writes down what it does."""

from pathlib import Path

import pytest

from remotegpu_agent.commands.allocations import Allocation, AllocationStore
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.journal import Journal
from remotegpu_agent.commands.policy import LocalPolicy
from remotegpu_agent.commands.records import Progress, Receipt
from remotegpu_agent.errors import JournalError, StateDirectoryError
from remotegpu_agent.reclaim.handler import Reclaim
from remotegpu_agent.reserve import PIECES, Reserve
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.commands import Command
from remotegpu_protocol.kinds import ALLOCATION_END, AllocationEnd, pack_arguments
from tests.agent.reclaim.doomed import OneAccount
from tests.agent.reclaim.isolation import own_uid
from tests.agent.reclaim.tenant import Tenant, tool

pytestmark = pytest.mark.isolated

#: Where everybody may write, and what is cleaned.
_DISK = Path("/var/tmp")  # noqa: S108 - of this host alone
_FILL = {
    "blocks": "cat /dev/zero >/var/tmp/fill; true",
    "inodes": "cd /var/tmp; seq 2000 | xargs touch 2>/dev/null; true",
}


class Cleaning:
    def read(self) -> LocalPolicy:
        return LocalPolicy(cleaning=True)


def pieces(state: StateDirectory) -> int:
    return len(list((state.path / "reserve").iterdir()))


def is_full(directory: Path) -> bool:
    try:
        (directory / "more").write_bytes(bytes(8192))
    except OSError:
        return True
    return False


async def report(_progress: Progress) -> None:
    pass


async def is_cleaned_all_the_same(name: str, number: int, fill: str) -> None:
    tool("mount", "-t", "tmpfs", "-o", "mode=1777,size=64m,nr_inodes=600", "tmpfs", str(_DISK))
    ada = Tenant(name, own_uid(number))
    allocation = f"allocation-{name}"
    state = StateDirectory(_DISK / "state")
    state.create()
    state.reserve.renew()
    assert pieces(state) == PIECES
    journal = Journal(state.path / "journal.db", reserve=state.reserve)
    AllocationStore(state).put(Allocation(allocation, "ada", True, [], 1, name, ada.uid))
    tool("sh", "-c", f"{fill} 2>/dev/null", uid=ada.uid)
    assert is_full(_DISK)

    # An agent without one cannot even write down that it is to clean.
    bare = StateDirectory(state.path)
    bare.reserve = Reserve(state.path / "none")
    with pytest.raises(StateDirectoryError, match="No space left"):
        bare.write("other.json", bytes(4096))
    arguments = pack_arguments(ALLOCATION_END, AllocationEnd(allocation))
    end = Command("c1", 1, ALLOCATION_END.name, arguments, 2**52)
    assert journal.accept(end, end=None, at=1) is Receipt.TAKEN
    assert journal.begin("c1", at=2)
    disk, source = DiskThread(), AbsentSource()
    accounts = OneAccount(ada.account)
    handler = Reclaim(AllocationStore(state), state, disk, Cleaning(), accounts, source)
    result = await handler.run(AllocationEnd(allocation), report)
    assert result.verified, [item for item in result.items if not item.verified]
    assert ada.residue() == []
    journal.close()
    disk.close()
    # With the user's files the room comes back, and the reserve with it.
    assert pieces(state) < PIECES
    state.reserve.renew()
    assert pieces(state) == PIECES
    assert sum(path.stat().st_blocks for path in (state.path / "reserve").iterdir()) * 512 >= 2**24


def used_up_says_so() -> None:
    tool("mount", "-t", "tmpfs", "-o", "mode=1777,size=1m,nr_inodes=100", "tmpfs", str(_DISK))
    state = StateDirectory(_DISK / "state")
    state.create()
    # None is made where there is no room to spare.
    state.reserve.renew()
    assert pieces(state) == 0
    tool("sh", "-c", f"{_FILL['blocks']} 2>/dev/null", uid=own_uid(1))
    with pytest.raises(StateDirectoryError, match="No space left"):
        state.write("allocations.json", bytes(4096))
    with pytest.raises(JournalError, match="make room"):
        Journal(state.path / "journal.db", reserve=state.reserve)


async def test_a_full_disk_keeps_nobody_from_cleaning() -> None:
    await is_cleaned_all_the_same("rg-ada", 1, _FILL["blocks"])
    await is_cleaned_all_the_same("rg-bob", 2, _FILL["inodes"])
    used_up_says_so()
