"""Choosing where something goes: pure, over what `capacity` read."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from remotegpu_core.services.allocations.reason import Reason, ReasonCode, moment
from remotegpu_core.services.allocations.request import AllocateRequest, Requirement

#: A moment that does not come: nobody knows when it is free.
NEVER: Final = 2**62


@dataclass(frozen=True, slots=True)
class Slot:
    """A GPU. From `free_from` (milliseconds) to the end that is asked for nobody has booked it.

    `memory` in bytes, 0 when the driver did not say. `occupied`: it is in somebody's hands at this
    moment, however long that was promised.
    """

    gpu_id: uuid.UUID
    index: int
    model: str
    memory: int
    usable: bool
    free_from: int
    occupied: bool = False


@dataclass(frozen=True, slots=True)
class Host:
    """A machine with its GPUs. `free_from` and `occupied` are of the whole of it.

    `obstacles` keep everything off it. `failed_starts`: how many failed since one succeeded.
    """

    machine_id: uuid.UUID
    name: str
    slots: tuple[Slot, ...]
    free_from: int
    occupied: bool = False
    obstacles: tuple[Reason, ...] = ()
    failed_starts: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where it goes. `gpu_ids` are those booked; of a whole machine, all that it has now."""

    machine_id: uuid.UUID
    gpu_ids: tuple[uuid.UUID, ...]
    whole_machine: bool


@dataclass(frozen=True, slots=True)
class Refused:
    """It goes nowhere. `free_from` is the earliest time at which it could, as things are booked.

    `could_serve`: machines that would do if nobody had them.
    """

    reasons: tuple[Reason, ...]
    free_from: int | None = None
    could_serve: frozenset[uuid.UUID] = frozenset()

    @property
    def unmet(self) -> str | None:
        """Why waiting alone may not help: nothing there would do even if nobody had it."""
        return None if self.could_serve else self.reasons[0].message


@dataclass(frozen=True, slots=True)
class _Fit:
    """How a host could serve the request: from when, with which slots, how many left over."""

    host: Host
    slots: tuple[Slot, ...]
    from_: int
    left_over: int

    @property
    def rank(self) -> tuple[int, int, int, str]:
        """Fewest failed starts, then fewest GPUs left over, then smallest memory, then the name."""
        memory = sum(slot.memory for slot in self.slots)
        return self.host.failed_starts, self.left_over, memory, self.host.name


def place(
    hosts: Sequence[Host], request: AllocateRequest, starts_at: int, *, now: bool
) -> Placement | Refused:
    """The best fit for [starts_at, ends_at) of `request`; `now`: it is to start at this moment."""
    open_hosts = [host for host in hosts if not host.obstacles]
    fits = [fit for host in open_hosts if (fit := _fit(host, request, starts_at, now)) is not None]
    free = [fit for fit in fits if fit.from_ <= starts_at]
    if free:
        best = min(free, key=lambda fit: fit.rank)
        return Placement(
            best.host.machine_id,
            tuple(slot.gpu_id for slot in sorted(best.slots, key=lambda slot: slot.index)),
            request.gpu_count == 0,
        )
    if fits:
        earliest = min(fit.from_ for fit in fits)
        return refused(request, frozenset(fit.host.machine_id for fit in fits), earliest)
    if request.machine_id is not None and hosts:
        return Refused(hosts[0].obstacles or (_unusable(),))
    return refused(request, frozenset(), NEVER)


def refused(request: AllocateRequest, could_serve: frozenset[uuid.UUID], earliest: int) -> Refused:
    """None of the machines that could serve the request is free before `earliest`."""
    if not could_serve:
        return Refused((_no_match(),))
    known = earliest if earliest < request.ends_at else None
    return Refused((_taken(request, earliest),), known, could_serve)


def _fit(host: Host, request: AllocateRequest, starts_at: int, now: bool) -> _Fit | None:
    needed = request.requirement
    if request.gpu_count == 0:
        if needed is not None and not (host.slots and all(_as(needed, s) for s in host.slots)):
            return None
        from_ = _free(host, starts_at, now)
        return _Fit(host, host.slots, from_, len(host.slots))
    if request.gpu_ids is not None:
        wanted = [slot for slot in host.slots if slot.gpu_id in request.gpu_ids]
        if len(wanted) < request.gpu_count or not all(slot.usable for slot in wanted):
            return None
    else:
        wanted = [slot for slot in host.slots if needed is not None and _as(needed, slot)]
        if len(wanted) < request.gpu_count:
            return None
    # Those free soonest, and of the free ones the smallest.
    order = sorted(
        wanted,
        key=lambda slot: (max(_free(slot, starts_at, now), starts_at), slot.memory, slot.index),
    )
    chosen = order[: request.gpu_count]
    free = [slot for slot in host.slots if slot.usable and _free(slot, starts_at, now) <= starts_at]
    return _Fit(
        host,
        tuple(chosen),
        max(_free(slot, starts_at, now) for slot in chosen),
        len(free) - len(chosen),
    )


def _free(what: Slot | Host, starts_at: int, now: bool) -> int:
    """From when it is free. Nobody knows of what is occupied beyond its time."""
    overdue = now and what.occupied and what.free_from <= starts_at
    return NEVER if overdue else what.free_from


def _as(needed: Requirement, slot: Slot) -> bool:
    return (
        slot.usable
        and (needed.gpu_model or "").lower() in slot.model.lower()
        and slot.memory >= (needed.gpu_memory_at_least or 0)
    )


def _taken(request: AllocateRequest, earliest: int) -> Reason:
    what = "this machine" if request.gpu_ids is None else "one of these GPUs"
    if request.machine_id is None:
        what = "every machine that fits"
    if request.ends_at <= earliest < NEVER:
        # What comes after the end that is asked for was not looked at.
        return Reason(
            ReasonCode.NO_CAPACITY, f"Somebody has {what} until {moment(earliest)} at least."
        )
    return Reason(ReasonCode.NO_CAPACITY, f"Somebody has {what} for that time, or part of it.")


def _unusable() -> Reason:
    return Reason(
        ReasonCode.NO_CAPACITY, "One of these GPUs does not work, or is not there any more."
    )


def _no_match() -> Reason:
    return Reason(
        ReasonCode.NO_CAPACITY,
        "No machine that may be used has what the requirement asks for: look at gpuModel, "
        "gpuCount, gpuMemoryAtLeast and labels.",
    )
