"""Who can open what, tried by processes of these users."""

import os
from pathlib import Path

import pytest

from remotegpu_agent.gpu_access.access_list import read_access, write_access
from remotegpu_agent.gpu_access.device_nodes import DeviceNodes, FileParameters
from remotegpu_agent.gpu_access.permissions import (
    Holder,
    Permissions,
    entries_of,
    objection,
    remove_entries,
)
from tests.agent.gpu_access.devices import Devices, uuid_of

ADA, BOB, EVE = 30001, 30002, 30003
OPERATOR = 4711
COMMON = {"nvidiactl", "nvidia-uvm"}


def permissions(devices: Devices) -> Permissions:
    return Permissions(DeviceNodes(devices.root), range(30000, 40000).__contains__)


def holder(uid: int, *cards: int) -> Holder:
    return Holder(uid, frozenset(map(uuid_of, cards)))


def test_each_opens_its_own(devices: Devices) -> None:
    kept = permissions(devices)
    ada, bob = holder(ADA, 0), holder(BOB, 1)
    assert devices.opened(ADA) == {"nvidia-uvm"}
    assert kept.missing(ada) == [
        f"{devices.path(name)} is shut" for name in ("nvidia3", "nvidiactl")
    ]
    assert {path.name for path in kept.settle([ada, bob])} == {"nvidia3", "nvidia4", "nvidiactl"}
    assert devices.opened(ADA) == {"nvidia3", *COMMON}
    assert devices.opened(BOB) == {"nvidia4", *COMMON}
    assert devices.opened(EVE) == {"nvidia-uvm"}
    assert kept.missing(ada) == kept.missing(bob) == []
    assert kept.settle([ada, bob]) == []
    # Whatever programs begin: the driver's helper finds nothing to change.
    devices.probe()
    assert devices.opened(ADA) == {"nvidia3", *COMMON}
    assert devices.opened(EVE) == {"nvidia-uvm"}
    # Another card, all of them, and none.
    kept.settle([holder(ADA, 0, 1)])
    assert devices.opened(ADA) == {"nvidia3", "nvidia4", *COMMON}
    assert devices.opened(BOB) == {"nvidia-uvm"}
    kept.settle([Holder(BOB, None)])
    assert devices.opened(BOB) == {"nvidia3", "nvidia4", *COMMON}
    kept.settle([])
    assert all(devices.opened(uid) == {"nvidia-uvm"} for uid in (ADA, BOB, EVE))
    assert [os.listxattr(devices.path(name)) for name in devices.names()] == [[]] * 4


def test_made_anew_they_are_shut_until_the_next_look(devices: Devices) -> None:
    kept = permissions(devices)
    holders = [holder(ADA, 0), holder(BOB, 1)]
    kept.settle(holders)
    for name in devices.names():
        devices.make(name)
    assert devices.opened(ADA) == {"nvidia-uvm"}
    kept.settle(holders)
    assert devices.opened(ADA) == {"nvidia3", *COMMON}
    # The cards change their minors, as they do when MIG is switched: the file is another card's.
    devices.place(0, minor=4)
    devices.place(1, minor=3)
    kept.settle(holders)
    assert devices.opened(ADA) == {"nvidia4", *COMMON}
    assert devices.opened(BOB) == {"nvidia3", *COMMON}
    # One that the driver does not know any more is nobody's.
    (devices.root / "proc/driver/nvidia/gpus/0000:10:00.0/information").write_text(
        "GPU UUID: \t GPU-????????-????-????-????-????????????\nDevice Minor: \t 4\n"
    )
    kept.settle(holders)
    assert devices.opened(ADA) == COMMON
    assert kept.missing(holders[0]) == [f"the driver knows no device file of {uuid_of(0)}"]


def test_what_others_set_stays(devices: Devices) -> None:
    """An operator's account, and the group that the file belongs to."""
    kept = permissions(devices)
    path = devices.path("nvidia3")
    write_access(path, read_access(path).changed(users={OPERATOR: 6, EVE: 6}, other=6))
    kept.settle([holder(ADA, 0)])
    assert read_access(path).users == {OPERATOR: 6, ADA: 6}
    assert (read_access(path).group, read_access(path).other) == (6, 0)
    assert "nvidia3" in devices.opened(OPERATOR)
    kept.settle([])
    assert read_access(path).users == {OPERATOR: 6}


@pytest.mark.parametrize("modify", [0, 1])
def test_instances_of_mig(devices: Devices, modify: int) -> None:
    """Those of a card are its holder's; where the driver's helper opens them, the card is what
    keeps others out."""
    devices.divide(3, "gi1", 30, modify=modify)
    devices.divide(3, "gi1/ci0", 31, modify=modify)
    devices.divide(4, "gi2", 40, modify=modify)
    kept = permissions(devices)
    kept.settle([holder(ADA, 0), holder(BOB, 1)])
    ones, twos = (
        {f"nvidia-caps/nvidia-cap{number}" for number in (30, 31)},
        {"nvidia-caps/nvidia-cap40"},
    )
    everybody = ones | twos if modify else set()
    assert devices.opened(ADA) == {"nvidia3", *COMMON, *ones} | everybody
    assert devices.opened(BOB) == {"nvidia4", *COMMON, *twos} | everybody
    assert devices.opened(EVE) == {"nvidia-uvm"} | everybody
    assert kept.missing(holder(ADA, 0)) == []


def test_taken_back_by_name(devices: Devices) -> None:
    kept = permissions(devices)
    kept.settle([holder(ADA, 0, 1), holder(BOB, 1)])
    nodes = DeviceNodes(devices.root)
    found = list(entries_of(nodes, ADA.__eq__))
    assert {path.name for path in found} == {"nvidia3", "nvidia4", "nvidiactl"}
    remove_entries(found, ADA.__eq__)
    assert list(entries_of(nodes, ADA.__eq__)) == []
    assert devices.opened(ADA) == {"nvidia-uvm"}
    assert devices.opened(BOB) == {"nvidia4", *COMMON}


@pytest.mark.parametrize(
    ("mode", "modify", "kept"),
    [
        (0o666, True, False),
        (0o666, False, True),
        (0o660, True, True),
        (0o660, False, True),
        # Whoever is let in by name would be shut out by the first program that begins.
        (0o600, True, False),
        (0o664, True, False),
        (0o770, True, True),
    ],
)
def test_drivers_that_undo_it(devices: Devices, mode: int, modify: bool, kept: bool) -> None:
    """What is said of the driver's settings is what its helper then does."""
    devices.tell(mode=mode, modify=int(modify))
    nodes = DeviceNodes(devices.root)
    assert nodes.parameters() == FileParameters(mode, modify)
    why_not = objection(nodes.parameters())
    assert (why_not is None) is kept
    assert why_not is None or "NVreg_DeviceFileMode=0660" in why_not
    for name in devices.names():
        devices.make(name)
    permissions(devices).settle([holder(ADA, 0)])
    devices.probe()
    apart = devices.opened(ADA) == {"nvidia3", *COMMON}
    assert (apart and devices.opened(EVE, reading=True) <= COMMON) is kept


def test_without_a_driver(tmp_path: Path) -> None:
    nodes = DeviceNodes(tmp_path)
    assert "not loaded" in (objection(nodes.parameters()) or "")
    assert list(nodes.everything()) == []
    assert nodes.minors() == {}
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "nvidia0").symlink_to("/dev/null")
    (tmp_path / "dev" / "nvidiactl").write_text("a file")
    assert list(nodes.everything()) == []
