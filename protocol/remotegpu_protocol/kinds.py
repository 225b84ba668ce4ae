"""What can be commanded: for each kind the shape of its arguments and of its result.

Both ends check: the control plane when it writes a command, the agent before it journals one.
"""

from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from remotegpu_protocol.datasets import (
    MAX_PATH,
    MOUNT_ID,
    MOUNT_PATH,
    SourceKind,
    check_endpoint,
    check_location,
    check_mount_path,
)
from remotegpu_protocol.errors import InvalidMessage, InvalidValue, UnknownCommand
from remotegpu_protocol.grammar import ACCOUNT_NAME, clean_text, shorten
from remotegpu_protocol.limits import (
    MAX_ARGUMENT_BYTES,
    MAX_GPUS,
    MAX_RESULT_BYTES,
    MAX_SSH_KEYS,
    MAX_SURFACES,
)
from remotegpu_protocol.values import PRINTABLE, Count, Identifier, LongText, Text, Timestamp

#: One that the control plane names after the allocation: see `grammar.ACCOUNT_NAME`.
AccountName = Annotated[str, Meta(max_length=15, pattern=ACCOUNT_NAME.pattern)]
#: A line of `authorized_keys`: type and base64 (see `ssh_keys`).
KeyLine = Annotated[str, Meta(max_length=4096, pattern=r"^[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,2}\Z")]
MountId = Annotated[str, Meta(max_length=64, pattern=MOUNT_ID.pattern)]
KeyLines = Annotated[list[KeyLine], Meta(max_length=MAX_SSH_KEYS)]


class AllocationStart(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Somebody gets the whole host, or these GPUs of it, until `ends_at`.

    `account` and `keys` only go to hosts whose policy enables `account.keys`: older agents know
    neither.
    """

    allocation_id: Identifier
    username: Text
    whole_machine: bool
    gpu_uuids: Annotated[list[Identifier], Meta(max_length=MAX_GPUS)]
    ends_at: Timestamp
    account: AccountName | None = None
    keys: KeyLines = []


class AllocationUpdate(Struct, frozen=True, forbid_unknown_fields=True):
    """The allocation ends at another time, or has other GPUs."""

    allocation_id: Identifier
    gpu_uuids: Annotated[list[Identifier], Meta(max_length=MAX_GPUS)]
    ends_at: Timestamp


class AllocationEnd(Struct, frozen=True, forbid_unknown_fields=True):
    """The allocation is over: take back what it had, and prove it."""

    allocation_id: Identifier


class AccountKeys(Struct, frozen=True, forbid_unknown_fields=True):
    """From now on these keys, and no others, sign in to the allocation's account."""

    allocation_id: Identifier
    account: AccountName
    keys: KeyLines


class DatasetMount(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The allocation's account sees the data set at `path` from now on.

    `location` is of the form that its kind has, `endpoint` of S3 only (see `datasets`); without one
    it is Amazon's. Credentials are the host's own: none travel.
    """

    mount_id: MountId
    allocation_id: Identifier
    account: AccountName
    kind: SourceKind
    location: Annotated[str, Meta(min_length=1, max_length=MAX_PATH, pattern=PRINTABLE)]
    path: Annotated[str, Meta(max_length=MAX_PATH, pattern=MOUNT_PATH.pattern)]
    read_only: bool
    endpoint: Annotated[str, Meta(max_length=MAX_PATH, pattern=PRINTABLE)] | None = None

    def __post_init__(self) -> None:
        """Raises InvalidValue: outside the grammar of `datasets`, made here or read."""
        check_mount_path(self.path)
        if check_location(self.kind, self.location) != self.location:
            raise InvalidValue("The location of a bucket has no slash at its end here.")
        if self.endpoint is None:
            return
        if self.kind is not SourceKind.S3:
            raise InvalidValue(f"{self.kind} has no endpoint.")
        if check_endpoint(self.endpoint) != self.endpoint:
            raise InvalidValue("An endpoint has no slash at its end here.")


class DatasetUnmount(Struct, frozen=True, forbid_unknown_fields=True):
    """The mount is over, whoever uses it."""

    mount_id: MountId
    allocation_id: Identifier


class CleanedSurface(Struct, frozen=True, omit_defaults=True):
    """One place that was looked at: what was found, what was removed, and whether a second look
    found nothing more."""

    surface: Text
    action: Text
    found: Count
    removed: Count
    verified: bool
    detail: LongText | None = None


class CleaningReport(Struct, frozen=True, omit_defaults=True):
    """The result of `allocation.end`. `verified`: every surface was looked at again and is clean.

    `performed` is false where this agent cleans nothing: the machine cannot go to the next one.
    """

    performed: bool
    verified: bool = False
    simulated: bool = False
    items: Annotated[list[CleanedSurface], Meta(max_length=MAX_SURFACES)] = []


class Nothing(Struct, frozen=True):
    """A result that says nothing beyond having succeeded."""


@dataclass(frozen=True, slots=True)
class CommandKind:
    name: str
    arguments: type[Struct]
    result: type[Struct] = Nothing


ALLOCATION_START: Final = CommandKind("allocation.start", AllocationStart)
ALLOCATION_UPDATE: Final = CommandKind("allocation.update", AllocationUpdate)
ACCOUNT_KEYS: Final = CommandKind("account.keys", AccountKeys)
ALLOCATION_END: Final = CommandKind("allocation.end", AllocationEnd, CleaningReport)

DATASET_MOUNT: Final = CommandKind("dataset.mount", DatasetMount)
DATASET_UNMOUNT: Final = CommandKind("dataset.unmount", DatasetUnmount)

KINDS: Final[dict[str, CommandKind]] = {
    kind.name: kind
    for kind in (
        *(ALLOCATION_START, ALLOCATION_UPDATE, ALLOCATION_END, ACCOUNT_KEYS),
        *(DATASET_MOUNT, DATASET_UNMOUNT),
    )
}

_encoder: Final = msgspec.msgpack.Encoder()


def pack_arguments(kind: CommandKind, arguments: Struct) -> bytes:
    """Arguments as a command carries them.

    Raises:
        InvalidMessage: they are not of the kind's shape, or too large.
    """
    return _pack(kind.name, kind.arguments, arguments, MAX_ARGUMENT_BYTES)


def read_arguments(name: str, packed: bytes) -> Struct:
    """The arguments of a command of this kind.

    Raises:
        UnknownCommand: this version knows no such kind.
        InvalidMessage: they are not of its shape.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise UnknownCommand(
            f"This version knows no command {shorten(name)!r}; it knows {', '.join(KINDS)}."
        )
    return _read(name, kind.arguments, packed)


def pack_result(kind: CommandKind, result: Struct) -> bytes:
    """A result as an event carries it; raises like `pack_arguments`."""
    return _pack(kind.name, kind.result, result, MAX_RESULT_BYTES)


def read_result(kind: CommandKind, packed: bytes) -> Struct:
    """The result of a command; raises InvalidMessage when it is not of the kind's shape."""
    return _read(kind.name, kind.result, packed)


def _pack(name: str, shape: type[Struct], value: Struct, limit: int) -> bytes:
    try:
        packed = _encoder.encode(value)
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidMessage(f"{name}: {clean_text(str(error), 300)}.") from None
    # What the other side would refuse is refused here.
    _read(name, shape, packed)
    if len(packed) > limit:
        raise InvalidMessage(f"{name}: expected at most {limit} bytes, got {len(packed)}.")
    return packed


def _read(name: str, shape: type[Struct], packed: bytes) -> Struct:
    try:
        return msgspec.msgpack.decode(packed, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"{name}: {clean_text(str(error), 300)}.") from None
