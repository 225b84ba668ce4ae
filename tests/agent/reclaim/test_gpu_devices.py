"""Two allocations on one host with real accounts: each opens its GPUs, whatever happens meanwhile."""

import asyncio
import pwd
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from remotegpu_agent.commands.allocations import AllocationStore
from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import NOT_DONE, CommandFailed, Done
from remotegpu_agent.commands.policy import PolicyFile
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.commands.registry import make_handlers
from remotegpu_agent.gpu_access.access import GpuAccess
from remotegpu_agent.gpu_access.device_nodes import DeviceNodes
from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.inventory import IsolationKind
from remotegpu_protocol.kinds import (
    AllocationEnd,
    AllocationStart,
    AllocationUpdate,
    CleaningReport,
)
from tests.agent.gpu_access.devices import Devices, uuid_of
from tests.agent.reclaim.isolation import require_isolation
from tests.agent.sources.conftest import QUICK
from tests.agent.stub import StubDriver

pytestmark = pytest.mark.isolated

POLICY = (
    'commands = ["allocation.start", "allocation.update", "allocation.end", "account.keys"]\n'
    "cleaning = true\n"
)
KEPT = "gpu_permissions = true\n"
ADA, BOB = "rg-aaaaaaaaaaaa", "rg-bbbbbbbbbbbb"
HOST = Path("/home/devices")
COMMON = {"nvidiactl", "nvidia-uvm"}


def allow(content: str) -> Path:
    require_isolation()
    path = Path("/etc/remotegpu/policy.toml")
    path.parent.mkdir(mode=0o755, exist_ok=True)
    path.write_text(content)
    return path


class Host:
    """An agent's handlers, and what keeps device files beside them."""

    def __init__(self, directory: StateDirectory, devices: Devices, source: NvmlSource) -> None:
        self.disk = DiskThread()
        policy = PolicyFile()
        nodes = DeviceNodes(devices.root)
        self.access = GpuAccess(directory, self.disk, policy, nodes, interval=0.05)
        self.handlers = make_handlers(directory, self.disk, policy, source, access=self.access)

    async def do(self, kind: str, arguments: Any) -> Any:
        async def report(_progress: Progress) -> None:
            pass

        return await self.handlers[kind].run(arguments, report)

    async def start(self, account: str, *cards: int, whole: bool = False) -> AllocationStart:
        uuids = [uuid_of(card) for card in cards]
        start = AllocationStart(f"of {account}", "somebody", whole, uuids, 1, account)
        await self.do("allocation.start", start)
        return start


@asynccontextmanager
async def running(
    directory: StateDirectory, devices: Devices, driver: StubDriver
) -> AsyncIterator[Host]:
    """From an agent's start to its end."""
    source = NvmlSource(QUICK, environment=driver.environment)
    host = Host(directory, devices, source)
    keeping = asyncio.create_task(host.access.run())
    yield host
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await source.close()
    host.disk.close()


def uid_of(account: str) -> int:
    return pwd.getpwnam(account).pw_uid


async def opens(devices: Devices, account: str, *names: str) -> None:
    """Soon."""
    wanted = {*names, *COMMON} if names else {"nvidia-uvm"}
    async with asyncio.timeout(20):
        while devices.opened(uid_of(account)) != wanted:  # noqa: ASYNC110 - files set no event
            await asyncio.sleep(0.05)


async def test_two_on_one_host(directory: StateDirectory, driver: StubDriver) -> None:
    allow(POLICY + KEPT)
    driver.tell({"card0.memory.used": 0, "card1.memory.used": 0})
    devices = Devices(HOST)
    async with running(directory, devices, driver) as host:
        assert (await host.access.settle()).kind is IsolationKind.DEVICE_ACL
        start = await host.start(ADA, 0)
        # At once, not at the next look.
        assert devices.opened(uid_of(ADA)) == {"nvidia3", *COMMON}
        assert isinstance(await host.handlers["allocation.start"].look_up(start), Done)
        await host.start(BOB, 1)
        assert devices.opened(uid_of(BOB)) == {"nvidia4", *COMMON}
        # The device files come back as udev or a boot makes them, and others with them.
        for name in devices.names():
            devices.make(name)
        await opens(devices, ADA, "nvidia3")
        await opens(devices, BOB, "nvidia4")
        update = AllocationUpdate(start.allocation_id, ["GPU-gone"], 2)
        with pytest.raises(CommandFailed, match="GPU-gone"):
            await host.do("allocation.update", update)
        # It is the allocation's all the same, and has to be proven clean at its end.
        kept = AllocationStore(directory).load()[start.allocation_id]
        assert kept.gpu_uuids == ["GPU-gone"]
        await host.do("allocation.update", AllocationUpdate(start.allocation_id, [uuid_of(0)], 2))
        # A card that fell off its bus is no reason to refuse a later end.
        devices.lose(0)
        await host.do("allocation.update", AllocationUpdate(start.allocation_id, [uuid_of(0)], 3))
        devices.place(0, minor=3)
    # While no agent runs.
    for name in devices.names():
        devices.make(name)
    assert devices.opened(uid_of(ADA)) == {"nvidia-uvm"}
    async with running(directory, devices, driver) as host:
        await opens(devices, ADA, "nvidia3")
        await opens(devices, BOB, "nvidia4")
        # Until its owner says otherwise, who may go on with what there is.
        allow(POLICY)
        isolation = await host.access.settle()
        assert isolation.kind is IsolationKind.NONE
        uid = uid_of(ADA)
        report = await host.do("allocation.end", AllocationEnd(start.allocation_id))
        assert isinstance(report, CleaningReport)
        assert report.verified, report
        items = {item.surface: item for item in report.items}
        item = items["GPU device permissions"]
        assert (item.found, item.removed, item.verified) == (2, 2, True)
        assert devices.opened(uid) == {"nvidia-uvm"}
        allow(POLICY + KEPT)
        await opens(devices, BOB, "nvidia4")
        # The next one, who may well have the user id of the first, and the whole of the host.
        end = AllocationEnd(f"of {BOB}")
        assert (await host.do("allocation.end", end)).verified
        await host.start(ADA, 0, 1, whole=True)
        assert devices.opened(uid_of(ADA)) == {"nvidia3", "nvidia4", *COMMON}
    assert set(AllocationStore(directory).load()) == {f"of {ADA}"}


async def test_what_a_host_cannot_keep_apart_it_does_not_share(
    directory: StateDirectory, driver: StubDriver
) -> None:
    allow(POLICY + KEPT)
    driver.tell({"card0.memory.used": 0, "card1.memory.used": 0})
    devices = Devices(HOST, mode=0o666)
    async with running(directory, devices, driver) as host:
        isolation = await host.access.settle()
        assert isolation.kind is IsolationKind.WHOLE_MACHINE_ONLY
        assert "NVreg_DeviceFileMode=0660" in (isolation.reason or "")
        handler = host.handlers["allocation.start"]
        shared = AllocationStart("a1", "ada", False, [uuid_of(0)], 1, ADA)
        refused = await handler.objection(shared)
        assert refused is not None
        assert (refused.code, AllocationStore(directory).load()) == ("GPU_PERMISSIONS", {})
        assert "only be allocated as a whole" in refused.message
        # Who begins all the same, as after a crash, makes no account.
        with pytest.raises(CommandFailed, match="only be allocated as a whole"):
            await host.do("allocation.start", shared)
        with pytest.raises(KeyError):
            uid_of(ADA)
        # Until it is told the end of that, the host keeps what it was told to begin.
        await host.do("allocation.end", AllocationEnd("a1"))
        gone = AllocationStart("a2", "ada", True, ["GPU-gone"], 1, ADA)
        refused = await handler.objection(gone)
        assert refused is not None
        assert refused.code == "GPU_SETTINGS"
        start = await host.start(BOB, 0, 1, whole=True)
        assert await handler.objection(start) is None
        assert devices.opened(uid_of(BOB)) == {"nvidia3", "nvidia4", *COMMON}
        # The module is loaded with its option.
        devices.tell(mode=0o660, modify=1)
        for name in devices.names():
            devices.make(name)
        found = await host.handlers["allocation.start"].look_up(start)
        assert found is NOT_DONE or isinstance(found, Done)
        await opens(devices, BOB, "nvidia3", "nvidia4")
        assert (await host.access.settle()).kind is IsolationKind.DEVICE_ACL
        # A policy without accounts is a mistake: nobody could open anything.
        allow('commands = ["allocation.start"]\n' + KEPT)
        assert "account.keys" in (PolicyFile().read().message or "")
        assert (await host.access.settle()).kind is IsolationKind.NONE
        # A record that is damaged is no reason to let everybody in, nor to shut anybody out.
        allow(POLICY + KEPT)
        directory.write("allocations.json", b"{")
        isolation = await host.access.settle()
        assert isolation.kind is IsolationKind.WHOLE_MACHINE_ONLY
        assert "damaged" in (isolation.reason or "")
        assert devices.opened(uid_of(BOB)) == {"nvidia3", "nvidia4", *COMMON}
