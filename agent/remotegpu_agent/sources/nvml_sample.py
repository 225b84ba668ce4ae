"""What a card does, read through NVML. Runs in the worker."""

from collections.abc import Iterable
from typing import Any, Final

import pynvml

from remotegpu_agent.sources.nvml_calls import Card
from remotegpu_agent.sources.nvml_process_lists import NOT_AVAILABLE, ProcessLists
from remotegpu_agent.sources.processes import ProcessNames
from remotegpu_protocol.limits import MAX_PROCESSES_PER_GPU
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess
from remotegpu_protocol.values import MAX_SAFE_INTEGER

# Beyond what any card reaches, far below what a broken sensor shows: degrees Celsius, milliwatts
# (a card with a whole rack's power is none), MHz.
_MAX_TEMPERATURE: Final = 200
_MAX_POWER: Final = 10_000_000
_MAX_CLOCK: Final = 10_000

#: NVML's documentation lets a fan exceed 100 percent of its intended maximum.
_MAX_FAN: Final = 150


def sample_card(card: Card, names: ProcessNames, lists: ProcessLists) -> GpuMetrics | None:
    """One sample, or None where `card.sick` says why there is none."""
    utilization = card.read("utilization", pynvml.nvmlDeviceGetUtilizationRates)
    used, total = _memory(card)
    fan = _number(card, "fan speed", card.read("fan speed", pynvml.nvmlDeviceGetFanSpeed), _MAX_FAN)
    sample = GpuMetrics(
        index=card.index,
        uuid=card.uuid or "",
        utilization=_float(_number(card, "utilization", _of(utilization, "gpu"), 100)),
        memory_controller_utilization=_float(
            _number(card, "memory controller utilization", _of(utilization, "memory"), 100)
        ),
        memory_used=used,
        memory_total=total,
        temperature=_float(
            _number(
                card,
                "temperature",
                card.read(
                    "temperature", pynvml.nvmlDeviceGetTemperature, pynvml.NVML_TEMPERATURE_GPU
                ),
                _MAX_TEMPERATURE,
            )
        ),
        power=_watts(card, "power", pynvml.nvmlDeviceGetPowerUsage),
        power_limit=_watts(card, "power limit", pynvml.nvmlDeviceGetEnforcedPowerLimit),
        sm_clock=_clock(card, "SM clock", pynvml.NVML_CLOCK_SM),
        memory_clock=_clock(card, "memory clock", pynvml.NVML_CLOCK_MEM),
        fan_speed=None if fan is None else min(100.0, float(fan)),
        ecc_corrected=_ecc(card, "corrected", pynvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
        ecc_uncorrected=_ecc(card, "uncorrected", pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        throttle_reasons=_throttle_reasons(card),
        processes=_processes(card, names, lists, total),
    )
    return None if card.sick is not None else sample


def _memory(card: Card) -> tuple[int | None, int | None]:
    # Version 2 keeps what the driver itself reserves out of `used`, as nvidia-smi does.
    memory = card.read("memory", pynvml.nvmlDeviceGetMemoryInfo, pynvml.nvmlMemory_v2)
    if memory is None:
        memory = card.read("memory", pynvml.nvmlDeviceGetMemoryInfo)
    total = _number(card, "memory total", _of(memory, "total"), MAX_SAFE_INTEGER)
    used = _number(card, "memory used", _of(memory, "used"), total or MAX_SAFE_INTEGER)
    return used, total


def _watts(card: Card, field: str, function: Any) -> float | None:
    milliwatts = _number(card, field, card.read(field, function), _MAX_POWER)
    return None if milliwatts is None else milliwatts / 1000


def _clock(card: Card, field: str, clock: int) -> int | None:
    value = card.read(field, pynvml.nvmlDeviceGetClockInfo, clock)
    return _number(card, field, value, _MAX_CLOCK)


def _ecc(card: Card, kind: str, error_type: int) -> int | None:
    field = f"{kind} ECC errors"
    # Aggregate: over the card's life, as opposed to since the last reboot.
    value = card.read(
        field, pynvml.nvmlDeviceGetTotalEccErrors, error_type, pynvml.NVML_AGGREGATE_ECC
    )
    return _number(card, field, value, MAX_SAFE_INTEGER)


def _throttle_reasons(card: Card) -> int | None:
    field = "clocks event reasons"
    value = card.read(field, pynvml.nvmlDeviceGetCurrentClocksEventReasons)
    if value is None:
        # The name until R535.
        value = card.read(field, pynvml.nvmlDeviceGetCurrentClocksThrottleReasons)
    return _number(card, field, value, MAX_SAFE_INTEGER)


def _processes(
    card: Card, names: ProcessNames, lists: ProcessLists, total: int | None
) -> list[GpuProcess] | None:
    found = lists.read(card, total)
    if found is None:
        return None
    memory: dict[int, int | None] = {}
    for listed in map(_by_pid, found):
        for pid, used in listed.items():
            known = memory.get(pid)
            # A process that computes and draws is in both lists, with the same memory in both.
            memory[pid] = (
                max(known, used)
                if known is not None and used is not None
                else (used if known is None else known)
            )
    largest = sorted(memory.items(), key=lambda item: (-(item[1] or 0), item[0]))
    return [
        GpuProcess(
            pid=pid,
            name=names.name(pid),
            username=names.username(pid),
            memory_used=_number(
                card, "memory of a process", used, total or MAX_SAFE_INTEGER, missing=NOT_AVAILABLE
            ),
        )
        for pid, used in largest[:MAX_PROCESSES_PER_GPU]
    ]


def _by_pid(processes: Iterable[Any]) -> dict[int, int | None]:
    # In MIG mode a process is listed once for each instance that it uses.
    memory: dict[int, int | None] = {}
    for process in processes:
        pid, used = int(process.pid), process.usedGpuMemory
        known = memory.get(pid)
        memory[pid] = used if known is None else known + (used or 0)
    return memory


def _of(structure: Any, field: str) -> int | None:
    return None if structure is None else int(getattr(structure, field))


def _number(
    card: Card, field: str, value: int | None, high: int, *, missing: int | None = None
) -> int | None:
    if value is None or value == missing:
        return None
    if 0 <= value <= high:
        return value
    card.remark(field, f"The driver reports {value} for {field}, which cannot be; taken as null.")
    return None


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)
