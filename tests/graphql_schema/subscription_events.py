"""Hypothesis: events of the subscriptions whose results may be shared."""

import dataclasses
import uuid
from collections.abc import Iterator
from typing import Any, Final

from hypothesis import strategies as st

from remotegpu_core.bus.samples import Sample
from remotegpu_core.services import fleet
from remotegpu_graphql.fleet.types import Fleet
from remotegpu_graphql.metrics.types import MachineMetrics
from remotegpu_protocol.codec import encode
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess, HostMetrics, Metrics
from remotegpu_protocol.values import MAX_SAFE_INTEGER, MAX_TIMESTAMP

#: Root fields, with the arguments that they need and the type of their events.
ROOTS: Final = {
    "machineMetrics": ('(machineIds: ["x"])', "MachineMetrics"),
    "fleetChanged": ("", "Fleet"),
}


def _maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


_bytes = _maybe(st.integers(0, MAX_SAFE_INTEGER))
_float = _maybe(st.floats(0, 100, allow_nan=False, allow_subnormal=False))
_text = _maybe(st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
_mhz = _maybe(st.integers(0, 100_000))

_processes = st.builds(GpuProcess, st.integers(0, 2**31 - 1), _text, _text, _bytes)
_gpus = st.builds(
    GpuMetrics,
    index=st.integers(0, 65_535),
    uuid=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8),
    utilization=_float,
    memory_controller_utilization=_float,
    memory_used=_bytes,
    memory_total=_bytes,
    temperature=_float,
    power=_float,
    power_limit=_float,
    sm_clock=_mhz,
    memory_clock=_mhz,
    fan_speed=_float,
    ecc_corrected=_bytes,
    ecc_uncorrected=_bytes,
    throttle_reasons=_bytes,
    processes=_maybe(st.lists(_processes, max_size=3)),
)
_hosts = st.builds(
    HostMetrics,
    cpu_utilization=_float,
    memory_used=_bytes,
    memory_total=_bytes,
    swap_used=_bytes,
    load1=_float,
    network_receive_bytes_per_second=_float,
    uptime_seconds=_float,
)


@st.composite
def machine_metrics(draw: st.DrawFn) -> MachineMetrics:
    at = draw(st.integers(0, MAX_TIMESTAMP))
    metrics = Metrics(at, draw(_hosts), draw(st.lists(_gpus, max_size=3)))
    machine_id = uuid.UUID(int=draw(st.integers(0, 2**128 - 1)))
    return MachineMetrics.of(machine_id, Sample(1, at, encode(metrics)))


_count = st.integers(0, 2**31 - 1)
_summaries = st.builds(
    fleet.Fleet,
    st.builds(fleet.MachineCounts, *[_count] * 7),
    st.builds(fleet.GpuTotals, *[_count] * 4, _float, _bytes, _bytes, _float),
)


@st.composite
def fleets(draw: st.DrawFn) -> Fleet:
    return Fleet.of(draw(_summaries))


def events(root: str) -> st.SearchStrategy[Any]:
    """Root values of a subscription's executions."""
    return machine_metrics() if root == "machineMetrics" else fleets()


#: In place of what a field should hold: nothing, and what fits no type but the last.
_FAULTS: Final = (None, object(), [None], float("nan"))


@st.composite
def faulty_events(draw: st.DrawFn, root: str) -> Any:
    """An event with mistakes in some of its fields, as a resolver of ours might make them."""
    event = draw(events(root))
    places = list(_places(event))
    for _ in range(draw(st.integers(1, 4))):
        owner, name = draw(st.sampled_from(places))
        setattr(owner, name, draw(st.sampled_from(_FAULTS)))
    return event


def _places(value: Any) -> Iterator[tuple[Any, str]]:
    """Every field of every object within."""
    if isinstance(value, list):
        for item in value:
            yield from _places(item)
    elif hasattr(type(value), "__strawberry_definition__"):
        for found in dataclasses.fields(value):
            yield value, found.name
            yield from _places(getattr(value, found.name))
