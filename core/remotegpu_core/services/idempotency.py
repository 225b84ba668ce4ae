"""Calls made again with a key: the same objects, for a day."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import IdempotencyKeyReused, InvalidInput
from remotegpu_core.models import IdempotencyKey
from remotegpu_core.services.freeze import is_clock_doubted
from remotegpu_core.texts import storable

#: Milliseconds for which a key is remembered.
LIFETIME: Final = 86_400_000
MAX_KEY: Final = 128


@dataclass(frozen=True, slots=True)
class Call:
    """A call of `mutation` with a key: the key belongs to the caller's user and the mutation."""

    user_id: uuid.UUID
    mutation: str
    key: str
    input_hash: str


@dataclass(frozen=True, slots=True)
class Made:
    """What the first call made or changed, and the operation that it began."""

    object_id: uuid.UUID | None
    operation_id: uuid.UUID | None


def call_of(actor: Actor, mutation: str, key: str | None, given: Mapping[str, Any]) -> Call | None:
    """The call, None without a key. `given` is the input without it.

    Raises:
        InvalidInput: the key is empty or too long.
    """
    if key is None or actor.user_id is None:
        return None
    if not key or not storable(key, MAX_KEY):
        raise InvalidInput(
            f"idempotencyKey has 1 to {MAX_KEY} characters, such as a UUID.", field="idempotencyKey"
        )
    packed = msgspec.json.encode(given, order="deterministic")
    return Call(actor.user_id, mutation, key, hashlib.sha256(packed).hexdigest())


async def recall(call: Call | None) -> Made | None:
    """What the same call made before; within a `ledger`, so that two at once are one.

    Raises:
        IdempotencyKeyReused: the key came with another input.
    """
    if call is None:
        return None
    known = await _find(call)
    if known is None:
        return None
    if known.created_at <= now_ms() - LIFETIME and not await is_clock_doubted():
        await known.delete()
        return None
    if known.input_hash != call.input_hash:
        raise IdempotencyKeyReused(
            "This key came with another input before: take a new key for a new request.",
            field="idempotencyKey",
        )
    return Made(known.object_id, known.operation_id)


async def remember(call: Call | None, made: Made) -> None:
    """Write down, within the current transaction, what the call made."""
    if call is not None:
        await IdempotencyKey.create(
            user_id=call.user_id,
            mutation=call.mutation,
            key=call.key,
            input_hash=call.input_hash,
            object_id=made.object_id,
            operation_id=made.operation_id,
            created_at=now_ms(),
        )


async def prune() -> int:
    """Forget keys of more than a day ago, and return how many."""
    return await IdempotencyKey.filter(created_at__lte=now_ms() - LIFETIME).delete()


async def _find(call: Call) -> IdempotencyKey | None:
    return await IdempotencyKey.get_or_none(
        user_id=call.user_id, mutation=call.mutation, key=call.key
    )
