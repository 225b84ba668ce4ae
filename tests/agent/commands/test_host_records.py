"""Records of what was given to whom that cannot be read: told before anybody runs into it."""

import pytest
import structlog

from remotegpu_agent.commands import host_records
from remotegpu_agent.commands.allocations import Allocation, AllocationStore
from remotegpu_agent.commands.desk import CommandDesk
from remotegpu_agent.commands.host_records import HostRecords
from remotegpu_agent.commands.policy import SimulatedPolicy
from remotegpu_agent.identity import HostKey, Identity, store_identity
from remotegpu_agent.report import read_report
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_agent.status import StatusFile


@pytest.mark.parametrize(
    "name", ["allocations.json", "mounts.json", "reclaims.json", "gpu_baselines.json"]
)
def test_each_of_them(directory: StateDirectory, name: str) -> None:
    assert HostRecords(directory).trouble() is None
    directory.write(name, b"{")
    with structlog.testing.capture_logs() as logs:
        records = HostRecords(directory)
        said = records.trouble()
        # Said once, and not read again each second.
        assert records.trouble() == said
    assert said is not None
    assert f"{name} is damaged" in said
    assert [(entry["log_level"], entry["reason"]) for entry in logs] == [("error", said)]


def test_one_that_was_put_back(directory: StateDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_records, "_INTERVAL", 0.0)
    AllocationStore(directory).put(Allocation("a1", "ada", True, [], 1))
    records = HostRecords(directory)
    good = directory.read("allocations.json")
    assert good is not None
    directory.write("allocations.json", good[:-5])
    assert records.trouble() is not None
    directory.write("allocations.json", good)
    assert records.trouble() is None


async def test_in_the_inventory_and_in_the_status(directory: StateDirectory) -> None:
    identity = Identity(
        key=HostKey.generate(),
        machine_id="machine-1",
        machine_name="node-1",
        origin="https://gpu.example.org",
    )
    store_identity(directory, identity)
    directory.write("allocations.json", b"[")
    desk = CommandDesk(directory, {}, SimulatedPolicy())
    damaged = await desk.damaged_records()
    assert damaged is not None
    status = StatusFile(directory)
    status.commanded(await desk.summary())
    status.stopped()
    assert f"records       {damaged}" in read_report(directory).as_text()


def test_what_the_host_has(directory: StateDirectory) -> None:
    store, records = AllocationStore(directory), HostRecords(directory)
    assert records.holdings() == []
    store.put(Allocation("a1", "ada", True, [], 1))
    store.put(Allocation("a2", "ada", True, [], 1, ended=True))
    assert records.holdings() == ["a1"]
    directory.write("allocations.json", b"[")
    assert records.holdings() == []
