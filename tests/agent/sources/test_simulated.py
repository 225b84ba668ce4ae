"""Simulated GPUs and the hosts that hold them."""

import pytest

from remotegpu_agent.host import read_host
from remotegpu_agent.identity import HostKey
from remotegpu_agent.sources.choose import SourceKind, SourceSettings, make_presented
from remotegpu_agent.sources.simulated import SimulatedSource
from remotegpu_protocol.codec import decode_from_agent, encode
from remotegpu_protocol.grammar import hardware_uuid
from remotegpu_protocol.inventory import DriverState, Inventory
from remotegpu_protocol.metrics import HostMetrics, Metrics

NOON = 1_800_000_000.0


def source(
    seed: int, *, at: float = NOON, count: int = 8, model: str | None = None
) -> SimulatedSource:
    if model is None:
        return SimulatedSource(seed=seed, count=count, clock=lambda: at)
    return SimulatedSource(seed=seed, count=count, model=model, clock=lambda: at)


async def test_equal_seeds_give_equal_gpus_and_others_do_not() -> None:
    one, same, other = source(1), source(1), source(2)
    assert await one.inventory() == await same.inventory()
    assert await one.sample() == await same.sample()
    uuids = [gpu.uuid for each in (one, other) for gpu in (await each.inventory()).gpus]
    assert len(set(uuids)) == 16


async def test_a_host_of_eight_h100s() -> None:
    report = await source(1).inventory()
    assert report.driver_state is DriverState.SIMULATED
    assert len(report.gpus) == 8
    assert {gpu.model for gpu in report.gpus} == {"NVIDIA H100 80GB HBM3"}
    assert {gpu.memory_total for gpu in report.gpus} == {80 * 1024**3}


async def test_a_day_of_samples_is_believable() -> None:
    seen: list[float] = []
    for step in range(0, 86_400, 600):
        samples = await source(3, at=NOON + step).sample()
        message = Metrics(sampled_at=0, host=HostMetrics(), gpus=samples)
        assert decode_from_agent(encode(message)) == message
        for sample in samples:
            assert sample.memory_used is not None
            assert sample.memory_total is not None
            assert sample.memory_used <= sample.memory_total
            assert sample.power is not None
            assert sample.power_limit is not None
            assert sample.power <= sample.power_limit
            # An idle card holds no process, draws little and is cold.
            assert (sample.utilization == 0) == (sample.processes == [])
            seen.append(sample.utilization or 0.0)
    assert min(seen) == 0.0
    assert max(seen) > 90.0


async def test_load_heat_and_power_go_together() -> None:
    samples = [
        sample for step in range(0, 3600, 30) for sample in await source(5, at=NOON + step).sample()
    ]
    busy = [sample for sample in samples if (sample.utilization or 0) > 80]
    idle = [sample for sample in samples if sample.utilization == 0]
    assert min(sample.power or 0 for sample in busy) > max(sample.power or 0 for sample in idle)
    assert min(sample.temperature or 0 for sample in busy) > max(
        sample.temperature or 0 for sample in idle
    )


async def test_a_model_brings_its_figures() -> None:
    gpu = (await source(1, model="NVIDIA GeForce RTX 4090").inventory()).gpus[0]
    assert gpu.memory_total == 24 * 1024**3
    assert gpu.mig_enabled is None


@pytest.mark.parametrize("count", [-1, 65])
def test_a_number_of_gpus_that_no_host_has(count: int) -> None:
    with pytest.raises(ValueError, match="0 to 64"):
        SimulatedSource(seed=1, count=count)


def test_simulated_hosts_differ_where_machines_must() -> None:
    settings = SourceSettings(kind=SourceKind.SIMULATED)
    real = read_host()
    shown = []
    for name in ("sim-01", "sim-02"):
        presented = make_presented(settings, HostKey.generate(), name)
        assert presented is not None
        shown.append(presented(real))
    one, two = shown
    assert (one.hostname, two.hostname) == ("sim-01", "sim-02")
    assert one.hardware_uuid != two.hardware_uuid
    assert hardware_uuid(one.hardware_uuid) == one.hardware_uuid
    assert one.addresses[0].address.startswith("2001:db8:")
    assert len(one.addresses) == 1
    assert one.cpu_model == real.cpu_model
    encode(Inventory(revision=1, host=one, gpus=[]))


def test_a_real_host_shows_itself_as_it_is() -> None:
    assert make_presented(SourceSettings(), HostKey.generate(), "node-1") is None
