"""GPUs that do not exist, for demonstrations and tests: believable, and equal for equal seeds."""

import asyncio
import math
import random
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from remotegpu_agent.sources.settings import GpuSettings, SettingsReply, Tuning, asked_about
from remotegpu_agent.sources.source import DriverReport
from remotegpu_protocol.inventory import DriverState, GpuInventory
from remotegpu_protocol.limits import MAX_GPUS
from remotegpu_protocol.metrics import GpuMetrics, GpuProcess

DEFAULT_MODEL: Final = "NVIDIA H100 80GB HBM3"
DEFAULT_COUNT: Final = 8

_GIB: Final = 1024**3

#: Seconds after which a simulated GPU may begin or end a job.
_JOB_SLOT: Final = 90.0

_PROGRAMS: Final = ("python3", "torchrun", "vllm", "trtllm-serve", "jupyter-lab", "gmx")
_USERS: Final = ("ada", "grace", "linus", "mei", "omar", "tove")


@dataclass(frozen=True, slots=True)
class Card:
    """What a model can do: bytes, watts, MHz."""

    memory: int
    idle_power: float
    power_limit: float
    sm_clock: int
    memory_clock: int
    fan: bool


# Figures from NVIDIA's data sheets; what is not in the table is taken for an H100.
_CARDS: Final = {
    "A100": Card(80 * _GIB, 55.0, 400.0, 1410, 1593, fan=False),
    "L40": Card(48 * _GIB, 35.0, 300.0, 2520, 9001, fan=False),
    "4090": Card(24 * _GIB, 20.0, 450.0, 2520, 10501, fan=True),
    "H200": Card(141 * _GIB, 75.0, 700.0, 1980, 3201, fan=False),
    "H100": Card(80 * _GIB, 70.0, 700.0, 1980, 2619, fan=False),
}


def card_of(model: str) -> Card:
    """The figures of the card that `model` names."""
    return next((card for key, card in _CARDS.items() if key in model), _CARDS["H100"])


class SimulatedSource:
    """A `GpuSource` whose samples depend on the seed and the time of day alone.

    `clock` gives seconds since the Unix epoch.
    """

    def __init__(
        self,
        *,
        seed: int,
        count: int = DEFAULT_COUNT,
        model: str = DEFAULT_MODEL,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not 0 <= count <= MAX_GPUS:
            raise ValueError(f"Expected 0 to {MAX_GPUS} simulated GPUs, got {count}.")
        self.changed = asyncio.Event()
        self._clock = clock
        self._gpus = [_SimulatedGpu(seed, index, model) for index in range(count)]

    async def start(self) -> None:
        """Nothing to start."""

    async def inventory(self) -> DriverReport:
        return DriverReport(
            DriverState.SIMULATED,
            "These GPUs are simulated.",
            driver_version="570.00-simulated",
            cuda_version="12.8",
            gpus=[gpu.inventory for gpu in self._gpus],
        )

    async def sample(self) -> list[GpuMetrics]:
        now = self._clock()
        return [gpu.sample(now) for gpu in self._gpus]

    async def tune(self, request: Tuning) -> SettingsReply:
        """Nobody can set a simulated card to anything."""
        return SettingsReply(dict.fromkeys(asked_about(request), GpuSettings()))

    async def close(self) -> None:
        """Nothing to close."""


class _SimulatedGpu:
    def __init__(self, seed: int, index: int, model: str) -> None:
        dice = random.Random(f"gpu {seed} {index}")
        self._card = card_of(model)
        self._name = f"{seed} {index}"
        self._phases = [dice.uniform(0, 2 * math.pi) for _ in range(3)]
        self._ambient = dice.uniform(27.0, 33.0)
        identity = uuid.UUID(int=dice.getrandbits(128), version=4)
        self.inventory = GpuInventory(
            index=index,
            uuid=f"GPU-{identity}",
            model=model,
            memory_total=self._card.memory,
            pci_bus_id=f"00000000:{0x10 + index:02X}:00.0",
            serial=f"{dice.randrange(10**12, 10**13)}",
            vbios_version="96.00.74.00.01",
            power_limit_max=self._card.power_limit,
            mig_enabled=None if self._card.fan else False,
        )

    def sample(self, now: float) -> GpuMetrics:
        card = self._card
        processes = self._processes(now)
        load = self._load(now) if processes else 0.0
        # A die warms up behind its load, so temperature follows the load of the last half minute.
        warmth = sum(self._load(now - lag) for lag in (0, 10, 20, 30)) / 4 if processes else 0.0
        power = card.idle_power + (card.power_limit * 0.97 - card.idle_power) * load**0.8
        return GpuMetrics(
            index=self.inventory.index,
            uuid=self.inventory.uuid,
            utilization=float(round(100 * load)),
            memory_controller_utilization=float(round(62 * load)),
            memory_used=sum(process.memory_used or 0 for process in processes) + _GIB // 2,
            memory_total=card.memory,
            temperature=float(round(self._ambient + 44 * warmth)),
            power=round(power, 1),
            power_limit=card.power_limit,
            sm_clock=round(card.sm_clock * (0.17 if not processes else 1.0 - 0.08 * load)),
            memory_clock=card.memory_clock,
            fan_speed=float(round(30 + 50 * warmth)) if card.fan else None,
            ecc_corrected=None if card.fan else 0,
            ecc_uncorrected=None if card.fan else 0,
            # nvmlClocksEventReasonSwPowerCap, nvmlClocksEventReasonGpuIdle.
            throttle_reasons=0x4 if load > 0.95 else 0x0 if processes else 0x1,
            processes=processes,
        )

    def _load(self, now: float) -> float:
        slow, middle, fast = self._phases
        wander = (
            0.72
            + 0.18 * math.sin(now / 37.0 + slow)
            + 0.10 * math.sin(now / 11.0 + middle)
            + 0.06 * math.sin(now / 1.7 + fast)
        )
        return min(1.0, max(0.02, wander))

    def _processes(self, now: float) -> list[GpuProcess]:
        slot = int(now // _JOB_SLOT)
        dice = random.Random(f"job {self._name} {slot}")
        count = dice.choices((0, 1, 2), weights=(2, 6, 2))[0]
        return [
            GpuProcess(
                pid=dice.randrange(2_000, 4_000_000),
                name=dice.choice(_PROGRAMS),
                username=dice.choice(_USERS),
                memory_used=int(self._card.memory * dice.uniform(0.08, 0.45)),
            )
            for _ in range(count)
        ]
