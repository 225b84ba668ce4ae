"""From the settings to a source."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from remotegpu_agent.errors import SettingError
from remotegpu_agent.identity import HostKey
from remotegpu_agent.sources.absent import AbsentSource
from remotegpu_agent.sources.nvml import NvmlSource, NvmlTimes
from remotegpu_agent.sources.simulated import DEFAULT_COUNT, DEFAULT_MODEL, SimulatedSource
from remotegpu_agent.sources.simulated_host import simulated_host, simulated_seed
from remotegpu_agent.sources.source import GpuSource
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import HostInventory


class SourceKind(StrEnum):
    """`auto` is NVML wherever there is a driver, now or later."""

    AUTO = "auto"
    NVML = "nvml"
    SIMULATED = "simulated"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """`seed` None derives one from the host's key, so that every state directory has its own."""

    kind: SourceKind = SourceKind.AUTO
    simulated_gpus: int = DEFAULT_COUNT
    simulated_model: str = DEFAULT_MODEL
    seed: int | None = None
    #: Seconds between attempts to find a driver.
    driver_retry: float = NvmlTimes().driver_retry

    def seed_for(self, key: HostKey) -> int:
        return simulated_seed(key.public_key) if self.seed is None else self.seed


def make_source(settings: SourceSettings, key: HostKey) -> GpuSource:
    """Raises SettingError where the settings make no sense."""
    match settings.kind:
        case SourceKind.SIMULATED:
            try:
                return SimulatedSource(
                    seed=settings.seed_for(key),
                    count=settings.simulated_gpus,
                    model=clean_text(settings.simulated_model),
                )
            except ValueError as error:
                raise SettingError(f"{error} Change --simulated-gpus.") from None
        case SourceKind.NONE:
            return AbsentSource()
        case _:
            return NvmlSource(NvmlTimes(driver_retry=settings.driver_retry))


def make_presented(
    settings: SourceSettings, key: HostKey, machine_name: str
) -> Callable[[HostInventory], HostInventory] | None:
    """How the host shows itself: as it is, unless it is simulated."""
    if settings.kind is not SourceKind.SIMULATED:
        return None
    seed = settings.seed_for(key)
    return lambda host: simulated_host(host, seed=seed, machine_name=machine_name)
