"""Signing in and out, and what a token says about its bearer."""

import uuid
from dataclasses import dataclass

from remotegpu_core.actor import Actor, ActorKind, Role, Scope, expand
from remotegpu_core.clock import now_ms
from remotegpu_core.database.transactions import transaction
from remotegpu_core.errors import InvalidCredentials, LockedOut, Unauthenticated
from remotegpu_core.models import ApiToken, Session, User
from remotegpu_core.networks import UNKNOWN, caller_network
from remotegpu_core.passwords import hash_password, needs_rehash, verify_password
from remotegpu_core.secret import Kind, kind_of, new_secret, secret_hash
from remotegpu_core.services import audit, lockout
from remotegpu_core.services.devices import device_of, new_device
from remotegpu_core.settings import Settings
from remotegpu_core.texts import name_key
from remotegpu_core.versions import Topic, bump
from remotegpu_protocol.grammar import clean_text

#: Milliseconds between two writes of an API token's last use.
_USE_RESOLUTION = 60_000
#: Milliseconds for which a network is known that a user signed in from. Sessions that ended are
#: forgotten earlier, where they last shorter.
_KNOWN_FOR = 30 * 86_400_000


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A new session; `token` is shown this once. `device_token` goes with the next sign-in."""

    token: str
    device_token: str
    session: Session
    user: User
    actor: Actor


async def sign_in(
    settings: Settings,
    username: str,
    password: str,
    *,
    source_address: str | None,
    device_token: str | None = None,
) -> SignedIn:
    """Exchange a user name and password for a session.

    `device_token` is of an earlier sign-in, if the caller kept one.

    Raises:
        LockedOut: too many failures lately.
        InvalidCredentials: the two do not belong together, or the user is disabled.
    """
    key = name_key(clean_text(username, 64))
    user = await User.get_or_none(username_key=key)
    attempt = await _attempt(key, user, caller_network(source_address), device_token)
    try:
        await lockout.count(attempt)
    except LockedOut as error:
        error.target = ("User", user.id) if user else None
        raise
    right = await verify_password(password, user.password_hash if user else None)
    if user is None or not right or user.disabled_at is not None:
        raise _refused(user)
    await lockout.forgive(attempt)
    signed_in = await _open_session(settings, user, source_address)
    if signed_in is None:
        raise _refused(user)
    if needs_rehash(user.password_hash):
        stronger = await hash_password(password)
        unchanged = User.filter(id=user.id, password_hash=user.password_hash)
        await unchanged.update(password_hash=stronger)
    return signed_in


async def _attempt(
    username_key: str, user: User | None, network: str, device_token: str | None
) -> lockout.Attempt:
    """What the attempt counts as. It takes as long for users that do not exist."""
    recent = Session.filter(
        user_id=user.id if user else uuid.uuid4(),
        source_network=network,
        created_at__gt=now_ms() - _KNOWN_FOR,
    )
    is_known = await recent.exists() and network != UNKNOWN
    device = device_of(user, device_token)
    if device is not None:
        return lockout.by_device(device)
    if is_known:
        return lockout.by_known_network(username_key, network)
    return lockout.by_stranger(username_key, network)


async def _open_session(
    settings: Settings, user: User, source_address: str | None
) -> SignedIn | None:
    """A session, or None when the user changed while their password was being verified.

    A password reset ends all sessions; one that began with the old password must not come after.
    """
    token, now = new_secret(Kind.SESSION), now_ms()
    async with transaction():
        unchanged = User.filter(id=user.id, password_hash=user.password_hash, disabled_at=None)
        if await unchanged.select_for_update().get_or_none() is None:
            return None
        session = await Session.create(
            user=user,
            token_hash=secret_hash(token),
            created_at=now,
            expires_at=now + settings.session_lifetime * 1000,
            source_address=source_address,
            source_network=caller_network(source_address),
        )
        actor = _bearer(session, user).at(source_address)
        await audit.record(actor, "signIn", target=("User", user.id))
    return SignedIn(token, new_device(user), session, user, actor)


async def sign_out(actor: Actor) -> None:
    """End the session that the call came with.

    Raises:
        Unauthenticated: it came with none.
    """
    if actor.kind is not ActorKind.USER or actor.credential_id is None:
        raise Unauthenticated("There is no session to end; API tokens are revoked instead.")
    async with transaction():
        await Session.filter(id=actor.credential_id, revoked_at=None).update(revoked_at=now_ms())
        await audit.record(actor, "signOut", target=("User", actor.require_user()))
        await bump(Topic.ACCESS)


async def authenticate(token: str, *, source_address: str | None = None) -> Actor:
    """Who bears `token`.

    Raises:
        Unauthenticated: nobody: it is unknown, expired or revoked, or its user is disabled.
    """
    actor: Actor | None = None
    match kind_of(token):
        case Kind.SESSION:
            session = await Session.get_or_none(token_hash=secret_hash(token)).select_related(
                "user"
            )
            if session is not None:
                actor = _session_actor(session, session.user)
        case Kind.API_TOKEN:
            api_token = await ApiToken.get_or_none(token_hash=secret_hash(token)).select_related(
                "user"
            )
            if api_token is not None:
                actor = _token_actor(api_token, api_token.user)
                if actor is not None:
                    await _note_use(api_token)
        case _:
            pass
    if actor is None:
        raise Unauthenticated(
            "The token is unknown, expired or revoked: sign in again or use another API token."
        )
    return actor.at(source_address)


async def still_valid(actors: list[Actor]) -> dict[uuid.UUID, Actor]:
    """Of the credentials behind `actors`, those that are good now, by id and as they are now.

    Roles and scopes may have changed since; two queries, however many actors.
    """
    sessions = [a.credential_id for a in actors if a.kind is ActorKind.USER]
    tokens = [a.credential_id for a in actors if a.kind is ActorKind.API_TOKEN]
    valid: dict[uuid.UUID, Actor] = {}
    if sessions:
        for session in await Session.filter(id__in=sessions).select_related("user"):
            if actor := _session_actor(session, session.user):
                valid[session.id] = actor
    if tokens:
        for api_token in await ApiToken.filter(id__in=tokens).select_related("user"):
            if actor := _token_actor(api_token, api_token.user):
                valid[api_token.id] = actor
    return valid


async def prune() -> None:
    """Forget sessions that ended a day ago."""
    await Session.filter(expires_at__lt=now_ms() - 86_400_000).delete()


def _refused(user: User | None) -> InvalidCredentials:
    """The same answer for every cause. The trail names the account, never what was typed."""
    error = InvalidCredentials("The user name or the password is wrong.")
    error.target = ("User", user.id) if user else None
    return error


def _session_actor(session: Session, user: User) -> Actor | None:
    if session.revoked_at is not None or session.expires_at <= now_ms():
        return None
    if user.disabled_at is not None:
        return None
    return _bearer(session, user)


def _bearer(session: Session, user: User) -> Actor:
    return Actor(
        ActorKind.USER,
        id=user.id,
        user_id=user.id,
        role=Role(user.role),
        scopes=frozenset(Scope),
        credential_id=session.id,
        expires_at=session.expires_at,
    )


def _token_actor(token: ApiToken, user: User) -> Actor | None:
    expired = token.expires_at is not None and token.expires_at <= now_ms()
    if token.revoked_at is not None or expired or user.disabled_at is not None:
        return None
    return Actor(
        ActorKind.API_TOKEN,
        id=token.id,
        user_id=user.id,
        role=Role(user.role),
        scopes=expand(frozenset(Scope(scope) for scope in token.scopes)),
        credential_id=token.id,
        expires_at=token.expires_at,
    )


async def _note_use(token: ApiToken) -> None:
    now = now_ms()
    if token.last_used_at is None or abs(now - token.last_used_at) >= _USE_RESOLUTION:
        await ApiToken.filter(id=token.id).update(last_used_at=now)
