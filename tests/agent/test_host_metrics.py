"""What this very host does, and counters that start over."""

import time
from pathlib import Path

import psutil
import pytest
from psutil._ntuples import snetio

from remotegpu_agent.host_metrics import HostSampler, NetworkRates
from remotegpu_agent.interfaces import Interfaces, OutwardTraffic
from remotegpu_protocol.codec import decode_from_agent, encode
from remotegpu_protocol.metrics import Metrics


def test_a_sample_of_this_host_is_one_that_the_protocol_takes() -> None:
    sampler = HostSampler()
    time.sleep(0.05)
    sample = sampler.sample()
    assert sample.memory_total == psutil.virtual_memory().total
    assert sample.memory_used
    assert sample.load1 is not None
    assert sample.uptime_seconds
    message = Metrics(sampled_at=0, host=sample, gpus=[])
    assert decode_from_agent(encode(message)) == message


def test_a_busy_host_is_busy() -> None:
    sampler = HostSampler()
    end = time.monotonic() + 0.5
    while time.monotonic() < end:
        pass
    assert (sampler.sample().cpu_utilization or 0) > 100 / (psutil.cpu_count() or 1) / 3


def counters(**interfaces: tuple[int, int]) -> dict[str, snetio]:
    return {
        name: snetio(sent, received, 0, 0, 0, 0, 0, 0)
        for name, (received, sent) in interfaces.items()
    }


def test_rates_come_from_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    reading = counters(eth7=(1000, 500), lo=(5, 5), docker0=(1, 1))
    clock = 100.0
    monkeypatch.setattr(psutil, "net_io_counters", lambda **_: reading)
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    outward = Interfaces(routed=frozenset({"eth7", "eth8"}), sysfs=Path("/nowhere"))
    rates = NetworkRates(OutwardTraffic(lambda: outward))
    reading, clock = counters(eth7=(3000, 1500), lo=(9, 9), docker0=(9, 9)), 102.0
    assert rates.sample() == (1000.0, 500.0)
    # Started over: nobody knows how much went through before it did.
    reading, clock = counters(eth7=(10, 10)), 104.0
    assert rates.sample() == (None, None)
    # An interface that is new has no rate yet, and does not hide the others'.
    reading, clock = counters(eth7=(30, 20), eth8=(10**9, 10**9)), 106.0
    assert rates.sample() == (10.0, 5.0)
    assert rates.sample() == (None, None)
