"""Hypothesis: subscription documents over the types whose events may be shared, and such events."""

import uuid
from dataclasses import dataclass, field
from typing import Any, Final

from graphql import GraphQLObjectType, GraphQLSchema, get_named_type, is_composite_type
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
_MAX_ALIASES = 12
_MAX_DIRECTIVES = 8
#: Selections of one document, whatever they are; each has some six tokens.
_MAX_PARTS = 40


@dataclass
class _Budget:
    """What a document may still use of what is limited, and what it has used."""

    parts: int = 0
    aliases: int = 0
    directives: int = 0
    fragments: list[str] = field(default_factory=list)
    variables: set[str] = field(default_factory=set)


@st.composite
def documents(draw: st.DrawFn, schema: GraphQLSchema, root: str) -> str:
    """A subscription of `root` with fragments, aliases and directives; valid by its making."""
    arguments, type_name = ROOTS[root]
    budget = _Budget()
    type_ = schema.type_map[type_name]
    assert isinstance(type_, GraphQLObjectType)
    selection = _selection(draw, type_, budget, depth=0)
    alias = draw(st.sampled_from(["", "live: "]))
    declared = ", ".join(f"${name}: Boolean!" for name in sorted(budget.variables))
    name = f"S({declared})" if declared else draw(st.sampled_from(["", "S"]))
    return " ".join(
        [f"subscription {name} {{ {alias}{root}{arguments} {selection} }}", *budget.fragments]
    )


def _selection(draw: st.DrawFn, type_: GraphQLObjectType, budget: _Budget, *, depth: int) -> str:
    wanted = 1 if budget.parts >= _MAX_PARTS else draw(st.integers(1, 4))
    parts = [_part(draw, type_, budget, depth=depth) for _ in range(wanted)]
    return f"{{ {' '.join(parts)} }}"


def _part(draw: st.DrawFn, type_: GraphQLObjectType, budget: _Budget, *, depth: int) -> str:
    budget.parts += 1
    kinds = ["field", "field", "field", "typename"]
    if budget.parts >= _MAX_PARTS:
        kinds = ["typename"]
    elif depth < 5:
        kinds += ["inline", "spread"]
    match draw(st.sampled_from(kinds)):
        case "typename":
            return f"{_alias(draw, budget)}__typename{_directive(draw, budget)}"
        case "inline":
            condition = draw(st.sampled_from(["", f" on {type_.name}"]))
            directive = _directive(draw, budget)
            return f"...{condition}{directive} {_selection(draw, type_, budget, depth=depth + 1)}"
        case "spread":
            name = f"F{len(budget.fragments)}"
            # Its place is taken first, so that those within it get other names.
            budget.fragments.append("")
            body = _selection(draw, type_, budget, depth=depth + 1)
            budget.fragments[int(name[1:])] = f"fragment {name} on {type_.name} {body}"
            return f"...{name}{_directive(draw, budget)}"
        case _:
            return _field(draw, type_, budget, depth=depth)


def _field(draw: st.DrawFn, type_: GraphQLObjectType, budget: _Budget, *, depth: int) -> str:
    name = draw(st.sampled_from(sorted(type_.fields)))
    inner = get_named_type(type_.fields[name].type)
    below = ""
    if is_composite_type(inner):
        assert isinstance(inner, GraphQLObjectType)
        below = " " + _selection(draw, inner, budget, depth=depth + 1)
    return f"{_alias(draw, budget)}{name}{_directive(draw, budget)}{below}"


def _alias(draw: st.DrawFn, budget: _Budget) -> str:
    if budget.aliases >= _MAX_ALIASES or draw(st.integers(0, 3)):
        return ""
    budget.aliases += 1
    return f"a{budget.aliases}: "


def _directive(draw: st.DrawFn, budget: _Budget) -> str:
    if budget.directives >= _MAX_DIRECTIVES or draw(st.integers(0, 4)):
        return ""
    budget.directives += 1
    name = draw(st.sampled_from(["include", "skip"]))
    value = draw(st.sampled_from(["true", "false", "$yes", "$no"]))
    if value.startswith("$"):
        budget.variables.add(value[1:])
    return f" @{name}(if: {value})"


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
