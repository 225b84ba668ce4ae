"""The keys by which a user signs in on what is allocated to them."""

import uuid
from collections.abc import Mapping
from typing import Final

from tortoise.exceptions import IntegrityError

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import (
    Conflict,
    LimitExceeded,
    NotFound,
    SshKeyCertificate,
    SshKeyMalformed,
    SshKeyMismatched,
    SshKeyOptions,
    SshKeyPrivate,
    SshKeyRefused,
    SshKeySeveral,
    SshKeyUnsupported,
    SshKeyWeak,
)
from remotegpu_core.models import SshKey
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.services import audit
from remotegpu_core.services.allocations.accounts import changing_keys
from remotegpu_core.texts import checked_name
from remotegpu_protocol.limits import MAX_SSH_KEYS
from remotegpu_protocol.ssh_keys import (
    GOOD_RSA_BITS,
    MIN_RSA_BITS,
    InvalidPublicKey,
    KeyProblem,
    PublicKey,
    parse_public_key,
)

NEWEST_FIRST: Final = Order("id", descending=True)

_REFUSALS: Final[Mapping[KeyProblem, type[SshKeyRefused]]] = {
    KeyProblem.MALFORMED: SshKeyMalformed,
    KeyProblem.SEVERAL: SshKeySeveral,
    KeyProblem.PRIVATE: SshKeyPrivate,
    KeyProblem.CERTIFICATE: SshKeyCertificate,
    KeyProblem.OPTIONS: SshKeyOptions,
    KeyProblem.WEAK: SshKeyWeak,
    KeyProblem.UNSUPPORTED: SshKeyUnsupported,
    KeyProblem.MISMATCHED: SshKeyMismatched,
}


def warning_of(row: SshKey) -> str | None:
    """Why the key is better replaced; None where it is good for years."""
    bits = parse_public_key(row.line).rsa_bits
    if bits is None or bits >= GOOD_RSA_BITS:
        return None
    return (
        f"RSA of {bits} bits is not to be used after 2030 (NIST SP 800-131A). Better make a key with "
        "`ssh-keygen -t ed25519`, add that and remove this one."
    )


async def add_ssh_key(
    actor: Actor, name: str, public_key: str, *, rsa_bits: int = MIN_RSA_BITS
) -> SshKey:
    """Add a key of the caller's: one line of a `.pub` file. `rsa_bits`: that one of RSA must have.

    Raises:
        InvalidInput: an empty name.
        SshKeyRefused: a subclass of it says what is wrong with the key.
        Conflict: the caller has it already.
        LimitExceeded: the caller has MAX_SSH_KEYS already.
    """
    user_id = actor.require_user()
    name = checked_name(name, "A key")
    key = _parse(public_key)
    if key.rsa_bits is not None and key.rsa_bits < rsa_bits:
        raise SshKeyWeak(
            f"An RSA key needs {rsa_bits} bits at least here; this one has {key.rsa_bits}. Make an "
            "ed25519 key: ssh-keygen -t ed25519",
            field="publicKey",
        )
    try:
        async with changing_keys(user_id):
            if await SshKey.filter(user_id=user_id).count() >= MAX_SSH_KEYS:
                raise LimitExceeded(f"You have {MAX_SSH_KEYS} keys already; remove some first.")
            row = await SshKey.create(
                user_id=user_id,
                name=name,
                algorithm=key.algorithm,
                fingerprint=key.fingerprint,
                line=key.line,
                comment=key.comment,
                created_at=now_ms(),
            )
            await audit.record(
                actor,
                "addSshKey",
                target=("SshKey", row.id),
                details={"name": name, "fingerprint": key.fingerprint},
            )
    except IntegrityError:
        raise Conflict(
            f"You have this key already ({key.fingerprint}).", field="publicKey"
        ) from None
    return row


async def remove_ssh_key(actor: Actor, key_id: uuid.UUID) -> SshKey:
    """Remove a key of the caller's, or as an admin anybody's.

    Raises:
        NotFound: no such key for this caller.
    """
    query = SshKey.filter(id=key_id)
    if not actor.is_admin:
        query = query.filter(user_id=actor.require_user())
    row = await query.get_or_none()
    if row is None:
        raise NotFound("There is no such SSH key.", field="id")
    async with changing_keys(row.user_id):
        if not await query.exists():
            raise NotFound("There is no such SSH key.", field="id")
        await SshKey.filter(id=row.id).delete()
        await audit.record(
            actor,
            "removeSshKey",
            target=("SshKey", row.id),
            details={"name": row.name, "fingerprint": row.fingerprint},
        )
    return row


async def list_ssh_keys(actor: Actor, request: PageRequest) -> Page[SshKey]:
    """The caller's own keys, newest first."""
    return await fetch_page(SshKey.filter(user_id=actor.require_user()), NEWEST_FIRST, request)


async def visible_ssh_keys(actor: Actor, ids: list[uuid.UUID]) -> dict[uuid.UUID, SshKey]:
    """Of `ids`, the keys that the caller may see: their own, admins all."""
    query = SshKey.filter(id__in=ids)
    if not actor.is_admin:
        query = query.filter(user_id=actor.user_id)
    return {row.id: row for row in await query} if ids and actor.is_signed_in else {}


def _parse(text: str) -> PublicKey:
    try:
        return parse_public_key(text)
    except InvalidPublicKey as error:
        raise _REFUSALS[error.problem](error.message, field="publicKey") from None
