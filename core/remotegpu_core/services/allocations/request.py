"""What is asked for: a machine, GPUs of it, or whatever fits a requirement, for a time."""

import uuid
from dataclasses import dataclass
from typing import Any, Final

from remotegpu_core.errors import InvalidInput, check_one_of
from remotegpu_core.settings import Settings
from remotegpu_core.texts import composed_labels, storable
from remotegpu_protocol.limits import MAX_GPUS, MAX_LABELS

_DAY: Final = 86_400_000
#: Milliseconds by which a caller's clock may be behind ours without their start being the past.
_TOLERANCE: Final = 60_000


@dataclass(frozen=True, slots=True)
class Requirement:
    """What a machine must have. `gpu_memory_at_least` in bytes, of each GPU.

    Without `gpu_count` it is a whole machine all of whose GPUs are as asked. `gpu_model` is part
    of the model's name, in any case; all of `labels` must be there.
    """

    gpu_count: int | None = None
    gpu_model: str | None = None
    gpu_memory_at_least: int | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "labels", tuple(composed_labels(self.labels)))


@dataclass(frozen=True, slots=True)
class AllocateRequest:
    """Either `machine_id`, with `gpu_ids` of it or else all of it, or `requirement`.

    Times in milliseconds since the Unix epoch, [starts_at, ends_at); it starts now without
    `starts_at`. `wait`: it waits for a place rather than failing without one.
    """

    ends_at: int
    machine_id: uuid.UUID | None = None
    gpu_ids: tuple[uuid.UUID, ...] | None = None
    requirement: Requirement | None = None
    user_id: uuid.UUID | None = None
    workspace_id: uuid.UUID | None = None
    starts_at: int | None = None
    wait: bool = False

    @property
    def gpu_count(self) -> int:
        """GPUs that are asked for by number: 0 for a whole machine, whatever it has."""
        if self.gpu_ids is not None:
            return len(self.gpu_ids)
        return (self.requirement.gpu_count or 0) if self.requirement else 0

    def wish(self) -> dict[str, Any]:
        """What a queued allocation keeps of it; `wished` reads it."""
        needed = self.requirement
        return {
            "machine_id": str(self.machine_id) if self.machine_id else None,
            "gpu_ids": None if self.gpu_ids is None else [str(gpu_id) for gpu_id in self.gpu_ids],
            "requirement": None
            if needed is None
            else {
                "gpu_count": needed.gpu_count,
                "gpu_model": needed.gpu_model,
                "gpu_memory_at_least": needed.gpu_memory_at_least,
                "labels": [list(label) for label in needed.labels],
            },
        }


def wished(wish: dict[str, Any], *, starts_at: int, ends_at: int) -> AllocateRequest:
    """The request that a queued allocation stands for."""
    needed, gpu_ids = wish["requirement"], wish["gpu_ids"]
    return AllocateRequest(
        starts_at=starts_at,
        ends_at=ends_at,
        machine_id=uuid.UUID(wish["machine_id"]) if wish["machine_id"] else None,
        gpu_ids=None if gpu_ids is None else tuple(uuid.UUID(gpu_id) for gpu_id in gpu_ids),
        requirement=None
        if needed is None
        else Requirement(
            needed["gpu_count"],
            needed["gpu_model"],
            needed["gpu_memory_at_least"],
            tuple((key, value) for key, value in needed["labels"]),
        ),
    )


def check_request(request: AllocateRequest, settings: Settings, now: int) -> None:
    """Raises InvalidInput, with the field, for what can never be."""
    _check_gpus(request)
    check_one_of(("machineId", request.machine_id), ("requirement", request.requirement))
    starts_at = request.starts_at
    if starts_at is not None and starts_at < now - _TOLERANCE:
        raise InvalidInput("startsAt is in the past; leave it out to start now.", field="startsAt")
    begins = max(now, starts_at or now)
    if begins > now + settings.max_allocation_days * _DAY:
        raise InvalidInput(
            f"startsAt is more than {settings.max_allocation_days} days ahead.", field="startsAt"
        )
    check_end(begins, request.ends_at, settings)


def check_end(starts_at: int, ends_at: int, settings: Settings) -> None:
    """Raises InvalidInput when an allocation cannot end then."""
    if ends_at <= starts_at:
        raise InvalidInput("endsAt must be after the start, and in the future.", field="endsAt")
    if ends_at - starts_at > settings.max_allocation_days * _DAY:
        raise InvalidInput(
            f"An allocation lasts at most {settings.max_allocation_days} days; extend it later.",
            field="endsAt",
        )


def _check_gpus(request: AllocateRequest) -> None:
    if request.gpu_ids is not None:
        if request.machine_id is None:
            raise InvalidInput(
                "gpuIds are GPUs of one machine: give that machine's id as machineId too. To have any GPUs "
                "that fit, leave gpuIds out and give a requirement.",
                field="gpuIds",
            )
        if not 1 <= len(set(request.gpu_ids)) == len(request.gpu_ids) <= MAX_GPUS:
            raise InvalidInput(
                f"gpuIds takes 1 to {MAX_GPUS} GPUs, each once; leave it out for the whole machine.",
                field="gpuIds",
            )
    needed = request.requirement
    if needed is None:
        return
    if needed.gpu_count is not None and not 1 <= needed.gpu_count <= MAX_GPUS:
        raise InvalidInput(
            f"gpuCount is 1 to {MAX_GPUS}, got {needed.gpu_count}; leave it out for a whole "
            "machine.",
            field=["requirement", "gpuCount"],
        )
    if needed.gpu_model is not None and not storable(needed.gpu_model, 255):
        raise InvalidInput(
            "gpuModel has at most 255 characters.", field=["requirement", "gpuModel"]
        )
    if len(needed.labels) > MAX_LABELS or not all(
        storable(key, 63) and storable(value, 255) for key, value in needed.labels
    ):
        raise InvalidInput(
            f"A requirement has at most {MAX_LABELS} labels, of keys with at most 63 characters "
            "and values with at most 255.",
            field=["requirement", "labels"],
        )
