"""Reading and setting what a card is set to. Runs in the worker."""

import ctypes
from collections.abc import Callable
from typing import Any, Final

import pynvml

from remotegpu_agent.sources.nvml_calls import Card, code_of, describe, raw
from remotegpu_agent.sources.settings import (
    GpuSettings,
    RestoreRequest,
    SettingsReply,
    Tuning,
    UnlockRequest,
    asked_about,
)
from remotegpu_protocol.grammar import clean_text
from remotegpu_protocol.limits import MAX_MIG_DEVICES

#: The card, or the driver, has no such thing.
_ABSENT: Final = frozenset({pynvml.NVML_ERROR_NOT_SUPPORTED, pynvml.NVML_ERROR_FUNCTION_NOT_FOUND})


class _Failed(Exception):
    pass


def tune_card(card: Card, request: Tuning) -> SettingsReply | None:
    """The card's part of the answer; None where the request is not about it."""
    if card.uuid is None or card.uuid not in asked_about(request):
        return None
    try:
        failures: list[str] = []
        locks = True
        if isinstance(request, RestoreRequest):
            failures = _restore(card, request.wanted[card.uuid])
        elif isinstance(request, UnlockRequest):
            locks = _unlock(card)
        return SettingsReply(
            settings={card.uuid: _read(card)},
            failed={card.uuid: clean_text("; ".join(failures), 2000)} if failures else {},
            without=[] if locks else [card.uuid],
        )
    except _Failed as error:
        return SettingsReply(failed={card.uuid: clean_text(str(error), 2000)})


def _read(card: Card) -> GpuSettings:
    """What does not tell, alone, is taken for what the card does not have: a value that was there
    before and is not now differs all the same."""
    mode = card.read("MIG mode", pynvml.nvmlDeviceGetMigMode)
    persistence = card.read("persistence mode", pynvml.nvmlDeviceGetPersistenceMode)
    enabled = None if mode is None else mode[0] == pynvml.NVML_DEVICE_MIG_ENABLE
    settings = GpuSettings(
        persistence=None if persistence is None else bool(persistence),
        compute_mode=card.read("compute mode", pynvml.nvmlDeviceGetComputeMode),
        power_limit=card.read("power limit", pynvml.nvmlDeviceGetPowerManagementLimit),
        application_clocks=_application_clocks(card),
        mig=enabled,
        mig_pending=None if mode is None else mode[1] == pynvml.NVML_DEVICE_MIG_ENABLE,
        mig_devices=_mig_devices(card) if enabled else [],
        tells_memory=_tells_memory(card),
    )
    if card.sick is not None:
        raise _Failed(card.sick)
    return settings


def _tells_memory(card: Card) -> bool | None:
    """False where the driver says that the card has no such figure; None where it says nothing now."""
    try:
        raw(pynvml.nvmlDeviceGetMemoryInfo)(card.handle)
    except pynvml.NVMLError as error:
        return False if code_of(error) in _ABSENT else None
    return True


def _application_clocks(card: Card) -> tuple[int, int] | None:
    clocks = [
        card.read("application clocks", pynvml.nvmlDeviceGetApplicationsClock, kind)
        for kind in (pynvml.NVML_CLOCK_MEM, pynvml.NVML_CLOCK_GRAPHICS)
    ]
    return None if None in clocks else (clocks[0], clocks[1])


def _mig_devices(card: Card) -> list[str]:
    count = card.read("MIG devices", pynvml.nvmlDeviceGetMaxMigDeviceCount) or 0
    handles = [
        card.read("MIG device", pynvml.nvmlDeviceGetMigDeviceHandleByIndex, index)
        for index in range(min(count, MAX_MIG_DEVICES))
    ]
    uuids = [
        card.read_of(handle, "MIG device's UUID", pynvml.nvmlDeviceGetUUID)
        for handle in handles
        if handle is not None
    ]
    return sorted(clean_text(uuid or b"unknown", 128) for uuid in uuids)


def _restore(card: Card, wanted: GpuSettings) -> list[str]:
    """Set what differs, MIG first since it takes other settings along; what failed, in words."""
    failures = []
    for restore in (_restore_mig, _restore_rest):
        try:
            failures += restore(card, wanted, _read(card))
        except _Failed as error:
            failures.append(str(error))
    return failures


def _restore_mig(card: Card, wanted: GpuSettings, now: GpuSettings) -> list[str]:
    if wanted.mig is None or (now.mig, now.mig_pending) == (wanted.mig, wanted.mig_pending):
        return []
    mode = pynvml.NVML_DEVICE_MIG_ENABLE if wanted.mig_pending else pynvml.NVML_DEVICE_MIG_DISABLE
    status = _call("setting the MIG mode", pynvml.nvmlDeviceSetMigMode, card.handle, mode)
    if status == pynvml.NVML_SUCCESS:
        return []
    return [
        f"the MIG mode changes at the next reset of the card: {describe(pynvml.NVMLError(status))}"
    ]


def _restore_rest(card: Card, wanted: GpuSettings, now: GpuSettings) -> list[str]:
    settings: list[tuple[str, Callable[..., Any], tuple[int, ...] | None, tuple[int, ...] | None]]
    settings = [
        (
            "the persistence mode",
            pynvml.nvmlDeviceSetPersistenceMode,
            _one(wanted.persistence),
            _one(now.persistence),
        ),
        (
            "the compute mode",
            pynvml.nvmlDeviceSetComputeMode,
            _one(wanted.compute_mode),
            _one(now.compute_mode),
        ),
        (
            "the power limit",
            pynvml.nvmlDeviceSetPowerManagementLimit,
            _one(wanted.power_limit),
            _one(now.power_limit),
        ),
        (
            "the application clocks",
            pynvml.nvmlDeviceSetApplicationsClocks,
            wanted.application_clocks,
            now.application_clocks,
        ),
    ]
    failures = []
    for name, function, value, is_now in settings:
        if value is None or value == is_now:
            continue
        try:
            _call(f"setting {name}", function, card.handle, *value)
        except _Failed as error:
            failures.append(str(error))
    return failures


def _unlock(card: Card) -> bool:
    """Whether the card knows locks of clocks."""
    knows = False
    for name, function in (
        ("the locks of graphics clocks", pynvml.nvmlDeviceResetGpuLockedClocks),
        ("the locks of memory clocks", pynvml.nvmlDeviceResetMemoryLockedClocks),
    ):
        try:
            raw(function)(card.handle)
        except pynvml.NVMLError as error:
            if code_of(error) not in _ABSENT:
                raise _Failed(f"lifting {name}: {describe(error)}") from None
        else:
            knows = True
    return knows


def _one(value: int | None) -> tuple[int, ...] | None:
    return None if value is None else (int(value),)


def _call(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return raw(function)(*arguments)
    except pynvml.NVMLError as error:
        raise _Failed(f"{name}: {describe(error)}") from None
    except (ctypes.ArgumentError, ValueError) as error:
        raise _Failed(f"{name}: {error}") from None
