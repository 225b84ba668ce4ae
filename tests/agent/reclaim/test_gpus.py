"""How it is proven that nobody is on a GPU any more, and what is refused because it could not be."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.policy import LocalPolicy
from remotegpu_agent.datasets.datasets import Datasets
from remotegpu_agent.datasets.records import MountStore
from remotegpu_agent.gpu_access.device_nodes import DeviceNodes
from remotegpu_agent.reclaim.readiness import Readiness
from remotegpu_agent.reclaim.step import Deadline, Obstacle
from remotegpu_agent.reclaim.surfaces.gpus import DRIVERS_OWN, Gpus
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.sources.settings import GpuSettings, SettingsRequest
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import AllocationStart
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess
from tests.agent.gpu_access.devices import Devices, uuid_of
from tests.agent.reclaim.tenant import tool
from tests.agent.reclaim.test_hosts import no_access
from tests.agent.sources.conftest import QUICK
from tests.agent.stub import StubDriver

GPU = uuid_of(0)
ADA, BOB, EVE = 20_001, 20_002, 20_003
TENANCY = Tenancy("a1", Account("rg-ada", ADA, "/home/rg-ada"), [GPU])
NOT_SUPPORTED = 3


class Card(AbsentSource):
    """A source with one card."""

    def __init__(self, used: int | None, processes: list[GpuProcess] | None) -> None:
        super().__init__()
        self.metrics = GpuMetrics(0, GPU, memory_used=used, processes=processes)

    async def sample(self) -> list[GpuMetrics]:
        return [self.metrics]


def gpus(
    source: AbsentSource | NvmlSource,
    devices: Path = Path("/nowhere"),
    *,
    tells_memory: bool | None = True,
    tenancy: Tenancy = TENANCY,
) -> Gpus:
    baseline = {GPU: GpuSettings(tells_memory=tells_memory)}
    return Gpus(tenancy, source, baseline, DeviceNodes(devices), lambda uid: uid in {ADA, BOB})


async def seen(step: Gpus) -> str:
    """What stands in the way of a proof, in words."""
    try:
        return str(await step.look(Deadline(20)))
    except Obstacle as error:
        return error.message


@contextmanager
def running(uid: int, device: Path = Path("/dev/null")) -> Iterator[int]:
    """A process of a user's that has a device open."""
    with device.open("rb") as opened:
        process = subprocess.Popen(["/bin/sleep", "60"], user=uid, cwd="/", stdin=opened)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


async def test_the_driver_tells() -> None:
    assert await seen(gpus(Card(DRIVERS_OWN, []))) == ""
    for source, word in (
        (AbsentSource(), "cannot be read"),
        (Card(0, None), "cannot be read"),
        (Card(None, []), "does not tell the memory"),
        (Card(DRIVERS_OWN + 2**20, []), "MiB used by no process"),
        (Card(0, [GpuProcess(2**22, "train", "eve", 1)]), "(train) of eve"),
    ):
        assert word in await seen(gpus(source))


async def test_what_another_account_runs_is_in_nobodys_way() -> None:
    """Where a host is shared and does not keep GPUs apart."""
    with running(BOB) as pid:
        theirs = GpuProcess(pid, "train", "rg-bob", 5 * DRIVERS_OWN)
        step = gpus(Card(6 * DRIVERS_OWN, [theirs]))
        assert await seen(step) == ""
        assert f"used by {pid} of rg-bob" in (step.note() or "")
        # What is not theirs is found beside it.
        assert "used by no process" in await seen(gpus(Card(7 * DRIVERS_OWN, [theirs])))
        # Nobody else has anything of a whole machine.
        whole = Tenancy("a1", TENANCY.account, [GPU], whole_machine=True)
        assert f"{pid} (train)" in await seen(gpus(Card(0, [theirs]), tenancy=whole))
    with running(EVE) as pid:
        assert f"{pid} (train)" in await seen(gpus(Card(0, [GpuProcess(pid, "train", "eve", 1)])))


async def test_memory_that_is_the_hosts_is_proven_by_processes(
    driver: StubDriver, tmp_path: Path
) -> None:
    """Unified memory: the driver says of none that it is the GPU's."""
    devices = Devices(tmp_path / "host")
    calls = ("nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2")
    driver.tell({f"card0.{call}.error": NOT_SUPPORTED for call in calls})
    source = NvmlSource(QUICK, environment=driver.environment)
    await source.start()
    try:
        settings = (await source.tune(SettingsRequest([GPU]))).settings
        assert settings[GPU].tells_memory is False
        step = gpus(source, devices.root, tells_memory=False)
        assert await seen(step) == ""
        assert f"{GPU}: proof: processes." in (step.note() or "")
        # It told before: then it is trouble, and no proof.
        assert "does not tell the memory" in await seen(gpus(source, devices.root))
        # A process that the driver does not list, and has the card open.
        node = devices.path("nvidia3")
        with running(EVE, node) as pid:
            assert f"{GPU}: {pid} has " in await seen(step)
        with running(BOB, node):
            assert await seen(step) == ""
        devices.lose(0)
        assert "which device file" in await seen(step)
    finally:
        await source.close()


class Cleaning:
    def read(self) -> LocalPolicy:
        return LocalPolicy(cleaning=True)


@pytest.mark.isolated
async def test_what_could_not_be_proven_is_refused_before() -> None:
    disk, state = DiskThread(), StateDirectory(Path("/run/state"))
    state.create()
    datasets = Datasets(MountStore(state))

    def readiness(source: AbsentSource) -> Readiness:
        return Readiness(disk, Cleaning(), source, no_access(), datasets)

    start = AllocationStart("a1", "ada", False, [], 0)
    assert await readiness(AbsentSource()).look() == []
    assert await readiness(AbsentSource()).objection(start) is None
    tool("umount", "/dev/mqueue")
    tool("mount", "--bind", "/dev/null", "/usr/sbin/usermod")
    obstacles = await readiness(AbsentSource()).look()
    assert [text.split(":")[0] for text in obstacles] == ["sign-in", "POSIX message queues"]
    refused = await readiness(AbsentSource()).objection(start)
    assert refused is not None
    assert (refused.code, "usermod is not installed" in refused.message) == ("NOT_PROVABLE", True)
    tool("umount", "/usr/sbin/usermod")
    tool("mount", "-t", "mqueue", "mqueue", "/dev/mqueue")
    # A display manager's program would be there at the end, too.
    start = AllocationStart("a1", "ada", False, [GPU], 0)
    busy = Card(0, [GpuProcess(1, "Xorg", "root", 1)])
    refused = await readiness(busy).objection(start)
    assert refused is not None
    assert "1 (Xorg) of root" in refused.message
    disk.close()
