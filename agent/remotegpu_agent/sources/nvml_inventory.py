"""What a card is, read through NVML. Runs in the worker."""

import ctypes
from typing import Any, Final

import pynvml

from remotegpu_agent.sources.nvml_calls import Card
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.inventory import GpuHealth, GpuInventory, MigDevice
from remotegpu_protocol.limits import MAX_MIG_DEVICES
from remotegpu_protocol.values import plausible, plausible_int

_MAX_POWER: Final = 10_000.0
_MAX_INDEX: Final = 65_535


def read_card(card: Card) -> GpuInventory | None:
    """The card, UNHEALTHY where it answers with errors; None where not even its UUID is known."""
    if card.uuid is None:
        return None
    model = _text(card, "name", pynvml.nvmlDeviceGetName)
    limits = card.read("power limits", pynvml.nvmlDeviceGetPowerManagementLimitConstraints)
    mode = card.read("MIG mode", pynvml.nvmlDeviceGetMigMode)
    mig_enabled = None if mode is None else mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    gpu = GpuInventory(
        index=card.index,
        uuid=card.uuid,
        model=model or "Unknown NVIDIA GPU",
        memory_total=_memory_total(card, card.read("memory", pynvml.nvmlDeviceGetMemoryInfo)),
        pci_bus_id=_pci_bus_id(card),
        serial=_text(card, "serial", pynvml.nvmlDeviceGetSerial),
        vbios_version=_text(card, "VBIOS version", pynvml.nvmlDeviceGetVbiosVersion),
        power_limit_max=plausible(limits[1] / 1000, 0, _MAX_POWER) if limits else None,
        mig_enabled=mig_enabled,
        mig_devices=_mig_devices(card) if mig_enabled else [],
    )
    if card.sick is None:
        return gpu
    return GpuInventory(
        index=gpu.index,
        uuid=gpu.uuid,
        model=gpu.model,
        memory_total=gpu.memory_total,
        pci_bus_id=gpu.pci_bus_id,
        serial=gpu.serial,
        health=GpuHealth.UNHEALTHY,
        health_reason=card.sick,
    )


def _text(card: Card, field: str, function: Any) -> str | None:
    value = card.read(field, function)
    return clean_text(value) or None if value is not None else None


def _pci_bus_id(card: Card) -> str | None:
    info = card.read("PCI bus id", pynvml.nvmlDeviceGetPciInfo_v3)
    if info is None:
        return None
    # pynvml's own attribute access would decode the bytes, and fail where they are not UTF-8.
    bus_id: bytes = ctypes.Structure.__getattribute__(info, "busId")
    return clean_text(bus_id) or None


def _memory_total(card: Card, memory: Any) -> int | None:
    if memory is None:
        return None
    total = plausible_int(int(memory.total))
    if total is None:
        card.remark("memory total", f"The driver reports {memory.total} bytes of memory.")
    return total


def _mig_devices(card: Card) -> list[MigDevice]:
    count = card.read("MIG devices", pynvml.nvmlDeviceGetMaxMigDeviceCount) or 0
    devices = []
    for index in range(min(count, MAX_MIG_DEVICES)):
        # Indices without an instance answer "Not Found".
        handle = card.read("MIG device", pynvml.nvmlDeviceGetMigDeviceHandleByIndex, index)
        if handle is None:
            continue
        device = _mig_device(card, handle)
        if device is not None:
            devices.append(device)
    return devices


def _mig_device(card: Card, handle: Any) -> MigDevice | None:
    uuid = clean_text(
        card.read_of(handle, "MIG device's UUID", pynvml.nvmlDeviceGetUUID) or b"", 128
    )
    if not uuid:
        return None
    name = card.read_of(handle, "MIG device's name", pynvml.nvmlDeviceGetName)
    memory = card.read_of(handle, "MIG device's memory", pynvml.nvmlDeviceGetMemoryInfo)
    gpu_instance = card.read_of(handle, "GPU instance", pynvml.nvmlDeviceGetGpuInstanceId)
    compute = card.read_of(handle, "compute instance", pynvml.nvmlDeviceGetComputeInstanceId)
    return MigDevice(
        uuid=uuid,
        name=clean_text(name) or None if name is not None else None,
        memory_total=_memory_total(card, memory),
        gpu_instance_id=plausible_int(gpu_instance, high=_MAX_INDEX),
        compute_instance_id=plausible_int(compute, high=_MAX_INDEX),
    )
