from enum import StrEnum

from remotegpu_core.services.allocations.log import EventKind
from remotegpu_core.services.allocations.reading import AllocationOrderField
from remotegpu_core.services.allocations.reason import ReasonCode
from remotegpu_core.services.allocations.ssh import SshUnavailable
from remotegpu_core.states import AllocationState
from remotegpu_graphql.enums import graph_enum

__all__ = [
    "AllocationChangeKind",
    "AllocationOrderField",
    "AllocationState",
    "ReasonCode",
    "SshUnavailable",
]

graph_enum(
    AllocationState,
    "Where an allocation stands.",
    {
        "PENDING": "Reserved, waiting for a place, or being started; pendingReasons say which.",
        "ACTIVE": "It is its user's.",
        "RECLAIMING": "It is over, and what it held is not proven clean yet.",
        "RELEASED": "It is over, and what it held is free.",
        "FAILED": "It could not start; the error says why. What it held is free.",
    },
)
graph_enum(
    ReasonCode,
    "Why an allocation has not started. New values may come.",
    {
        "NO_CAPACITY": "Nothing that fits is free for that time.",
        "QUOTA": "It would be more than the quota allows.",
        "STARTS_LATER": "Its time has not come.",
        "STARTING": "The host is being told.",
        "OCCUPIED": "Whoever had it before is not gone, or it is not proven clean yet.",
        "MACHINE_OFFLINE": "The machine is not heard.",
        "MACHINE_DRAINING": "The machine takes nothing new.",
        "MACHINE_OUT_OF_SERVICE": "The machine is in maintenance, quarantined or retired.",
        "HOST_NOT_ACCEPTED": "An admin must accept the host before anything is sent to it.",
        "NOT_ENABLED": "The host's own policy file does not enable every command that an allocation takes.",
        "NOT_SHARED": "The host's owner wants GPUs kept apart, which it cannot do: it can only be "
        "allocated as a whole.",
        "NOT_PROVABLE": "The host could not prove that it was cleaned afterwards; the message says why.",
    },
    name="PendingReasonCode",
)
graph_enum(
    SshUnavailable,
    "Why an allocation cannot be signed in to. New values may come.",
    {
        "NOT_YOURS": "It is somebody else's.",
        "NOT_ACTIVE": "It has not started, or it is over.",
        "SIMULATED": "Its host only pretends.",
        "NO_ACCOUNT_ON_HOST": "Its host's own policy file did not enable account.keys.",
        "NO_SSH_KEYS": "Its user has no key: addSshKey.",
        "NO_ADDRESS": "Its machine has no management or public address that no other has, too, and "
        "on which its SSH server listens.",
        "REFUSED_BY_HOST": "The SSH server of its host does not let its account in, or is not there.",
    },
    name="SshUnavailableCode",
)
graph_enum(
    AllocationOrderField,
    "What allocations are ordered by.",
    {
        "CREATED_AT": "By when they were asked for.",
        "STARTS_AT": "By their start.",
        "ENDS_AT": "By their end.",
    },
)


class AllocationChangeKind(StrEnum):
    READY = "READY"
    CREATED = EventKind.CREATED
    PLACED = EventKind.PLACED
    STARTED = EventKind.STARTED
    EXTENDED = EventKind.EXTENDED
    GPUS_CHANGED = EventKind.GPUS_CHANGED
    KEYS_FAILED = EventKind.KEYS_FAILED
    KEYS_REPLACED = EventKind.KEYS_REPLACED
    ENDING_SOON = EventKind.ENDING_SOON
    RECLAIMING = EventKind.RECLAIMING
    RELEASED = EventKind.RELEASED
    FAILED = EventKind.FAILED


graph_enum(
    AllocationChangeKind,
    "What happened to an allocation. New values may come.",
    {
        "READY": "Nothing yet: the subscription stands, and its cursor is the present.",
        "CREATED": "Somebody asked for it.",
        "PLACED": "It has a machine, which is booked for its time.",
        "STARTED": "It is its user's from now on.",
        "EXTENDED": "It ends at another time.",
        "GPUS_CHANGED": "GPUs were found in its machine, or went away.",
        "KEYS_FAILED": "Its host could not give its account its user's SSH keys; sshKeysError says "
        "why.",
        "KEYS_REPLACED": "It has its user's SSH keys again, after that had failed.",
        "ENDING_SOON": "It ends within a day, an hour or ten minutes; extend it, or save your work.",
        "RECLAIMING": "It is over, and its host takes back what it had.",
        "RELEASED": "What it held is free.",
        "FAILED": "It could not start.",
    },
)
