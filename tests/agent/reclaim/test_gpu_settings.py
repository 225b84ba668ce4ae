"""What a user with root set on GPUs is put back, through the worker and a stub of NVIDIA's library."""

from collections.abc import AsyncIterator

import pytest

from remotegpu_agent.commands.disk import DiskThread
from remotegpu_agent.commands.handler import CommandFailed
from remotegpu_agent.commands.records import Progress
from remotegpu_agent.reclaim.baselines import Baseline, Baselines, BaselineStore
from remotegpu_agent.reclaim.engine import Engine
from remotegpu_agent.reclaim.surfaces.gpu_settings import ClockLocks, GpuSettings
from remotegpu_agent.reclaim.tenancy import Account, Tenancy
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.sources.nvml import NvmlSource
from remotegpu_agent.sources.settings import SettingsRequest, UnlockRequest
from remotegpu_agent.sources.source import GpuSource
from remotegpu_agent.state_directory import StateDirectory
from remotegpu_protocol.kinds import CleanedSurface
from tests.agent.sources.conftest import QUICK
from tests.agent.stub import StubDriver

FIRST, SECOND = (f"GPU-00000000-0000-4000-8000-{card:012d}" for card in (0, 1))
NOT_SUPPORTED = 3
NO_PERMISSION = 4


@pytest.fixture
async def nvml(driver: StubDriver) -> AsyncIterator[NvmlSource]:
    source = NvmlSource(QUICK, environment=driver.environment)
    await source.start()
    yield source
    await source.close()


def tenancy(*uuids: str) -> Tenancy:
    return Tenancy("a1", Account("rg-ada", 64000, "/home/rg-ada"), list(uuids))


async def baseline_of(source: GpuSource, *uuids: str) -> Baseline:
    reply = await source.tune(SettingsRequest(list(uuids)))
    assert not reply.failed, reply
    return reply.settings


async def clean(
    source: GpuSource, baseline: Baseline, *uuids: str
) -> tuple[CleanedSurface, CleanedSurface]:
    async def report(_progress: Progress) -> None:
        pass

    asked = tenancy(*uuids)
    steps = [GpuSettings(asked, source, baseline), ClockLocks(asked, source, baseline)]
    settings, locks = (await Engine(steps, pause=0.001).run(report)).items
    return settings, locks


async def test_everything_is_put_back(driver: StubDriver, nvml: NvmlSource) -> None:
    driver.tell({"card0.power.set": 650_000, "card1.mig": 1, "card1.mig0.uuid": "MIG-a"})
    baseline = await baseline_of(nvml, FIRST, SECOND)
    assert baseline[FIRST].power_limit == 650_000
    assert (baseline[SECOND].mig, baseline[SECOND].mig_devices) == (True, ["MIG-a"])
    untouched, _ = await clean(nvml, baseline, FIRST, SECOND)
    assert (untouched.found, untouched.verified, untouched.detail) == (0, True, None)
    driver.set(
        {
            "card0.persistence": 0,
            "card0.compute_mode": 3,
            "card0.power.set": 200_000,
            "card0.applications.graphics": 210,
            "card0.mig": 1,
            "card0.locked.graphics": 210,
            "card0.locked.memory": 405,
            "card1.mig": 0,
        }
    )
    settings, locks = await clean(nvml, baseline, FIRST, SECOND)
    # Of the second card MIG is off, and with it the instance is gone.
    assert (settings.found, settings.removed, settings.verified) == (7, 7, True), settings
    assert (locks.found, locks.removed, locks.verified) == (2, 2, True), locks
    assert await baseline_of(nvml, FIRST, SECOND) == baseline
    assert driver.settings()["card0.locked.graphics"] == 0
    assert driver.settings()["card0.locked.memory"] == 0


async def test_what_stays_is_told_and_not_proven(driver: StubDriver, nvml: NvmlSource) -> None:
    baseline = await baseline_of(nvml, FIRST)
    for call, key, value, word in (
        ("nvmlDeviceSetComputeMode", "card0.compute_mode", 2, "compute mode is 2, and was 0"),
        ("nvmlDeviceSetPersistenceMode", "card0.persistence", 0, "persistence is off"),
        ("nvmlDeviceSetPowerManagementLimit", "card0.power.set", 1, "and was 700 W"),
        ("nvmlDeviceSetApplicationsClocks", "card0.applications.memory", 5, "5 and 1980 MHz"),
        ("nvmlDeviceSetMigMode", "card0.mig", 1, "MIG is on, and was off"),
    ):
        before = driver.settings().get(key)
        driver.set({key: value})
        # The driver says no, and then it says yes and does nothing.
        driver.tell({f"card0.{call}.error": NO_PERMISSION})
        refused, _ = await clean(nvml, baseline, FIRST)
        assert (refused.found, refused.removed, refused.verified) == (1, 0, False), refused
        assert word in (refused.detail or "")
        assert "Insufficient Permissions" in (refused.detail or "")
        driver.forget(f"card0.{call}.error")
        driver.tell({f"card0.{call}.ignored": 1})
        ignored, _ = await clean(nvml, baseline, FIRST)
        assert not ignored.verified
        assert word in (ignored.detail or "")
        driver.forget(f"card0.{call}.ignored")
        mended, _ = await clean(nvml, baseline, FIRST)
        assert mended.verified, (key, before, mended)


async def test_a_mode_that_waits_for_a_reset_is_not_proven(
    driver: StubDriver, nvml: NvmlSource
) -> None:
    baseline = await baseline_of(nvml, FIRST)
    driver.set({"card0.mig": 1, "card0.mig.pending": 1})
    driver.tell({"card0.mig.reset": 1})
    item, _ = await clean(nvml, baseline, FIRST)
    assert not item.verified
    assert "next reset" in (item.detail or "")
    driver.tell({"card1.mig": 1, "card1.mig0.uuid": "MIG-a"})
    baseline = await baseline_of(nvml, SECOND)
    # Instances are a person's to make again.
    driver.tell({"card1.mig1.uuid": "MIG-b"})
    item, _ = await clean(nvml, baseline, SECOND)
    assert not item.verified
    assert "has 2 MIG devices" in (item.detail or "")


async def test_what_a_card_does_not_have_is_said(driver: StubDriver, nvml: NvmlSource) -> None:
    for call in (
        *("nvmlDeviceGetMigMode", "nvmlDeviceGetPowerManagementLimit"),
        *("nvmlDeviceGetApplicationsClock", "nvmlDeviceResetGpuLockedClocks"),
        "nvmlDeviceResetMemoryLockedClocks",
    ):
        driver.tell({f"{call}.error": NOT_SUPPORTED})
    baseline = await baseline_of(nvml, FIRST)
    driver.set({"card0.compute_mode": 3})
    settings, locks = await clean(nvml, baseline, FIRST)
    assert (settings.found, settings.removed, settings.verified) == (1, 1, True)
    assert settings.detail == f"{FIRST} tells no power limit, application clocks, MIG."
    assert (locks.verified, locks.detail) == (True, f"{FIRST} has none.")


async def test_nobody_knows_nothing_is_proven(driver: StubDriver, nvml: NvmlSource) -> None:
    baseline = await baseline_of(nvml, FIRST)
    for source, known, uuid, word in (
        (AbsentSource(), baseline, FIRST, "switched off"),
        (nvml, {}, FIRST, "is not known"),
        (nvml, baseline, SECOND, "is not known"),
        (nvml, {"GPU-gone": baseline[FIRST]}, "GPU-gone", "does not answer"),
    ):
        settings, locks = await clean(source, known, uuid)
        assert not settings.verified, word
        assert word in (settings.detail or "")
        assert locks.verified is (uuid != "GPU-gone" and source is nvml)
    driver.tell({"card0.nvmlDeviceGetComputeMode.error": 999})
    settings, locks = await clean(nvml, baseline, FIRST)
    assert (settings.verified, locks.verified) == (False, True)
    assert "compute mode is unknown, and was 0" in (settings.detail or "")
    # Two such answers are a card that is of no use.
    driver.tell({"card0.nvmlDeviceGetPersistenceMode.error": 999})
    settings, locks = await clean(nvml, baseline, FIRST)
    assert (settings.verified, locks.verified) == (False, False)
    assert "Unknown Error" in (settings.detail or "")
    driver.forget(
        "card0.nvmlDeviceGetComputeMode.error", "card0.nvmlDeviceGetPersistenceMode.error"
    )
    driver.tell({"card0.nvmlDeviceResetGpuLockedClocks.error": NO_PERMISSION})
    assert not (await clean(nvml, baseline, FIRST))[1].verified
    reply = await nvml.tune(UnlockRequest([FIRST, SECOND]))
    assert list(reply.failed) == [FIRST]


async def test_a_baseline_is_what_was_before_anybody(
    driver: StubDriver, nvml: NvmlSource, directory: StateDirectory
) -> None:
    disk = DiskThread()
    baselines = Baselines(BaselineStore(directory), disk, nvml)
    await baselines.record("a1", [FIRST])
    driver.set({"card0.compute_mode": 3})
    await baselines.record("a1", [FIRST, SECOND])
    found = await Baselines(BaselineStore(directory), disk, nvml).find("a1")
    assert [found[uuid].compute_mode for uuid in (FIRST, SECOND)] == [0, 0]
    assert await baselines.find("a2") == {}
    with pytest.raises(CommandFailed, match="GPU-gone is set to cannot be read"):
        await baselines.record("a2", ["GPU-gone"])
    await baselines.forget("a1")
    assert await baselines.find("a1") == {}
    assert directory.read("gpu_baselines.json") == b"{}\n"
    directory.write("gpu_baselines.json", b"[")
    with pytest.raises(CommandFailed, match="damaged"):
        await baselines.find("a1")
    disk.close()
