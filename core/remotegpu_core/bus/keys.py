"""Names of channels and keys, in one place so that no two parts disagree."""

from typing import Final
from uuid import UUID

#: Something in the database changed: poll the versions now instead of within a second.
NUDGE: Final = "rg:nudge"
#: A machine's id: its watch rates changed, whoever holds its link should look.
WATCH: Final = "rg:watch"
#: `<machine id> <epoch>`: a newer connection exists, holders of older ones let go.
FENCE: Final = "rg:fence"
#: Persisted documents: their texts by digest, when each was used last, and their bytes in all.
DOCUMENTS: Final = "rg:documents"
DOCUMENTS_USED: Final = "rg:documents:used"
DOCUMENTS_BYTES: Final = "rg:documents:bytes"


def sample_channel(machine_id: UUID) -> str:
    return f"rg:sample:{machine_id}"


def latest_key(machine_id: UUID | str) -> str:
    return f"rg:latest:{machine_id}"


def presence_key(machine_id: UUID) -> str:
    return f"rg:presence:{machine_id}"


def watch_key(machine_id: UUID) -> str:
    return f"rg:watch:{machine_id}"


def probe_key(replica_id: UUID) -> str:
    return f"rg:probe:{replica_id}"


def rate_key(caller: str, window: int) -> str:
    return f"rg:rate:{caller}:{window}"


def documents_added_key(user_id: UUID) -> str:
    return f"rg:documents:added:{user_id}"
