"""Tokens for programs."""

import uuid

from tortoise.expressions import Q

from remotegpu_core.actor import Actor, ActorKind, Role, Scope
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import Forbidden, InvalidInput, LimitExceeded, NotFound, Unauthenticated
from remotegpu_core.models import ApiToken, Session, User
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.secret import Kind, new_secret, secret_hash
from remotegpu_core.services import audit
from remotegpu_core.texts import checked_name
from remotegpu_core.versions import Topic, bump

#: Tokens that one user may have at a time.
MAX_TOKENS = 100

NEWEST_FIRST = Order("id", descending=True)


async def create_api_token(
    actor: Actor, name: str, scopes: frozenset[Scope], expires_at: int | None
) -> tuple[str, ApiToken]:
    """Make a token for the caller and return its secret, this once, with its row.

    `expires_at` in milliseconds since the Unix epoch, None for a token without an end.

    Raises:
        InvalidInput: an empty name, no scope, or an end in the past.
        Forbidden: a scope that the caller does not have, or the caller came with a token itself.
        LimitExceeded: the caller has MAX_TOKENS already that are good.
    """
    user_id = actor.require_user()
    if actor.kind is ActorKind.API_TOKEN:
        # What it made would go on when it is revoked or has expired.
        raise Forbidden("An API token makes no further tokens: sign in, and use the session.")
    now = now_ms()
    name = checked_name(name, "A token")
    if not scopes:
        raise InvalidInput("A token needs at least one scope.", field="scopes")
    if expires_at is not None and expires_at <= now:
        raise InvalidInput("expiresAt is in the past.", field="expiresAt")
    if not scopes <= actor.scopes or (Scope.ADMIN in scopes and actor.role is not Role.ADMIN):
        raise Forbidden("A token can have no scope that you do not have.", field="scopes")
    token = new_secret(Kind.API_TOKEN)
    async with transaction():
        # So that no two at once take the last place.
        await User.filter(id=user_id).select_for_update(no_key=True).get()
        if not await Session.filter(id=actor.credential_id, revoked_at=None).exists():
            # Ended while this call was under way, perhaps by a reset that ended every token too.
            raise Unauthenticated("The session has ended: sign in again.")
        good = ApiToken.filter(user_id=user_id, revoked_at=None)
        good = good.filter(Q(expires_at=None) | Q(expires_at__gt=now))
        if await good.count() >= MAX_TOKENS:
            raise LimitExceeded(f"You have {MAX_TOKENS} tokens already; revoke some first.")
        row = await ApiToken.create(
            user_id=user_id,
            name=name,
            token_hash=secret_hash(token),
            scopes=sorted(scopes),
            created_at=now,
            expires_at=expires_at,
        )
        await audit.record(
            actor,
            "createApiToken",
            target=("ApiToken", row.id),
            details={"name": name, "scopes": " ".join(sorted(scopes))},
        )
    return token, row


async def revoke_api_token(actor: Actor, token_id: uuid.UUID) -> ApiToken:
    """End a token of the caller's, or as an admin anybody's. Revoking twice changes nothing.

    Raises:
        NotFound: no such token for this caller.
    """
    query = ApiToken.filter(id=token_id)
    if not actor.is_admin:
        query = query.filter(user_id=actor.require_user())
    row = await query.get_or_none()
    if row is None:
        raise NotFound("There is no such API token.", field="id")
    async with transaction():
        revoked = await ApiToken.filter(id=token_id, revoked_at=None).update(revoked_at=now_ms())
        await audit.record(
            actor,
            "revokeApiToken",
            target=("ApiToken", row.id),
            details={"name": row.name, "changed": audit.yes_or_no(revoked)},
        )
        if revoked:
            await bump(Topic.ACCESS)
    await row.refresh_from_db()
    return row


async def revoke_all(user_id: uuid.UUID, now: int) -> int:
    """End every token of a user, within a transaction that bumps ACCESS; returns how many."""
    return await ApiToken.filter(user_id=user_id, revoked_at=None).update(revoked_at=now)


async def list_api_tokens(actor: Actor, request: PageRequest) -> Page[ApiToken]:
    """The caller's own tokens, newest first."""
    query = ApiToken.filter(user_id=actor.require_user())
    return await fetch_page(query, NEWEST_FIRST, request)


async def visible_api_tokens(actor: Actor, ids: list[uuid.UUID]) -> dict[uuid.UUID, ApiToken]:
    """Of `ids`, the tokens that the caller may see: their own, admins all."""
    query = ApiToken.filter(id__in=ids)
    if not actor.is_admin:
        query = query.filter(user_id=actor.user_id)
    return {row.id: row for row in await query} if ids and actor.is_signed_in else {}
