"""What can be set on a GPU and outlives whoever set it, and how it is read and put back."""

from typing import Annotated

from msgspec import Meta, Struct

from remotegpu_protocol.limits import MAX_MIG_DEVICES
from remotegpu_protocol.values import LongText


class GpuSettings(Struct, frozen=True, omit_defaults=True):
    """None: the card has no such setting, or does not tell.

    `compute_mode`: NVML's number. `power_limit` in milliwatts. `application_clocks`: memory and
    graphics in MHz. `mig_pending`: what MIG will be after the next reset of the card.
    `mig_devices`: their UUIDs, sorted. `tells_memory`: whether the driver says how much of its memory
    is used, which is nothing that can be set; None in records of older agents.
    """

    persistence: bool | None = None
    compute_mode: int | None = None
    power_limit: int | None = None
    application_clocks: tuple[int, int] | None = None
    mig: bool | None = None
    mig_pending: bool | None = None
    mig_devices: Annotated[list[str], Meta(max_length=MAX_MIG_DEVICES)] = []
    tells_memory: bool | None = None


class SettingsRequest(Struct, frozen=True, tag_field="type", tag="settings"):
    """Read them."""

    uuids: list[str]


class RestoreRequest(Struct, frozen=True, tag_field="type", tag="restore"):
    """Make each card's settings these, by its UUID."""

    wanted: dict[str, GpuSettings]


class UnlockRequest(Struct, frozen=True, tag_field="type", tag="unlock"):
    """Lift the locks of clocks, which no call reads."""

    uuids: list[str]


class SettingsReply(Struct, frozen=True, tag_field="type", tag="settings_reply"):
    """By UUID: what they are now, and what went wrong. `without`: cards that know no such thing."""

    settings: dict[str, GpuSettings] = {}
    failed: dict[str, LongText] = {}
    without: list[str] = []


Tuning = SettingsRequest | RestoreRequest | UnlockRequest


def asked_about(request: Tuning) -> list[str]:
    """The UUIDs of its cards."""
    return list(request.wanted) if isinstance(request, RestoreRequest) else request.uuids


def differences(wanted: GpuSettings, now: GpuSettings) -> list[str]:
    """What is not as wanted, in words; what the card did not have then is no matter."""
    found = []
    if wanted.mig is not None and (now.mig, now.mig_pending) != (wanted.mig, wanted.mig_pending):
        after = " until its next reset" if now.mig != now.mig_pending else ""
        found.append(f"MIG is {_on(now.mig)}{after}, and was {_on(wanted.mig)}")
    if wanted.mig_devices != now.mig_devices:
        found.append(
            f"it has {len(now.mig_devices)} MIG devices, which are not the {len(wanted.mig_devices)}"
            " that it had"
        )
    if wanted.persistence is not None and now.persistence != wanted.persistence:
        found.append(f"persistence is {_on(now.persistence)}, and was {_on(wanted.persistence)}")
    if wanted.compute_mode is not None and now.compute_mode != wanted.compute_mode:
        found.append(f"compute mode is {_mode(now.compute_mode)}, and was {wanted.compute_mode}")
    if wanted.power_limit is not None and now.power_limit != wanted.power_limit:
        found.append(
            f"power limit is {_watts(now.power_limit)}, and was {wanted.power_limit / 1000:g} W"
        )
    if (
        wanted.application_clocks is not None
        and now.application_clocks != wanted.application_clocks
    ):
        found.append(
            f"application clocks are {_clocks(now.application_clocks)}, and were "
            f"{_clocks(wanted.application_clocks)}"
        )
    return found


def absent(settings: GpuSettings) -> list[str]:
    """Names of the settings that the card does not have, or does not tell."""
    names = {
        "persistence": settings.persistence,
        "compute mode": settings.compute_mode,
        "power limit": settings.power_limit,
        "application clocks": settings.application_clocks,
        "MIG": settings.mig,
    }
    return [name for name, value in names.items() if value is None]


def _on(value: bool | None) -> str:
    return {True: "on", False: "off", None: "unknown"}[value]


def _mode(value: int | None) -> str:
    return "unknown" if value is None else str(value)


def _watts(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1000:g} W"


def _clocks(value: tuple[int, int] | None) -> str:
    return "unknown" if value is None else f"{value[0]} and {value[1]} MHz"
