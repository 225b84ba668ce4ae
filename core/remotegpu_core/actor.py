"""Who is calling, and what they may do."""

import uuid
from dataclasses import dataclass, replace
from enum import StrEnum

from remotegpu_core.errors import Forbidden, Unauthenticated


class Role(StrEnum):
    ADMIN = "ADMIN"
    USER = "USER"


class Scope(StrEnum):
    """What an API token may be used for. Each one includes those above it."""

    READ = "READ"
    WRITE = "WRITE"
    ADMIN = "ADMIN"


_INCLUDED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.WRITE: frozenset({Scope.READ, Scope.WRITE}),
    Scope.ADMIN: frozenset(Scope),
}


def expand(scopes: frozenset[Scope]) -> frozenset[Scope]:
    """The scopes with everything that they include."""
    return frozenset().union(*(_INCLUDED[scope] for scope in scopes)) if scopes else frozenset()


class ActorKind(StrEnum):
    ANONYMOUS = "ANONYMOUS"
    USER = "USER"
    API_TOKEN = "API_TOKEN"  # noqa: S105 - an enum value
    MACHINE = "MACHINE"
    SYSTEM = "SYSTEM"


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller of a service.

    `id` is the user's, API token's or machine's; `user_id` the user behind it. `credential_id`
    is the session or API token that the call came with, `expires_at` when that ends, in
    milliseconds since the Unix epoch.
    """

    kind: ActorKind
    id: uuid.UUID | None = None
    user_id: uuid.UUID | None = None
    role: Role | None = None
    scopes: frozenset[Scope] = frozenset()
    credential_id: uuid.UUID | None = None
    expires_at: int | None = None
    source_address: str | None = None
    #: Not known yet: the call is a sign-in and nothing else, which has limits of its own.
    is_signing_in: bool = False

    @property
    def is_signed_in(self) -> bool:
        return self.user_id is not None

    @property
    def is_admin(self) -> bool:
        """May act on everything: an admin, through a credential that has the scope for it."""
        if self.kind is ActorKind.SYSTEM:
            return True
        return self.role is Role.ADMIN and Scope.ADMIN in self.scopes

    @property
    def sees_all_machines(self) -> bool:
        """Admins see every machine, through a read-only token too."""
        if self.kind is ActorKind.SYSTEM:
            return True
        return self.role is Role.ADMIN and Scope.READ in self.scopes

    def require_user(self) -> uuid.UUID:
        """The calling user.

        Raises:
            Unauthenticated: nobody is signed in.
        """
        if self.user_id is None:
            raise Unauthenticated("Sign in first: this needs a session or an API token.")
        return self.user_id

    def require_scope(self, scope: Scope) -> None:
        """Raises Forbidden unless the credential has `scope`."""
        if self.kind is ActorKind.SYSTEM:
            return
        self.require_user()
        if scope not in self.scopes:
            held = ", ".join(sorted(self.scopes)) or "none"
            raise Forbidden(f"This needs a token with the scope {scope}; yours has {held}.")

    def require_admin(self) -> None:
        """Raises Forbidden unless the caller is an admin with the scope to act as one."""
        if self.kind is ActorKind.SYSTEM:
            return
        self.require_user()
        if self.role is not Role.ADMIN:
            raise Forbidden("Only an admin may do this.")
        self.require_scope(Scope.ADMIN)

    def at(self, source_address: str | None) -> "Actor":
        return replace(self, source_address=source_address)


def anonymous(source_address: str | None = None) -> Actor:
    return Actor(ActorKind.ANONYMOUS, source_address=source_address)


def signing_in(caller: Actor) -> Actor:
    """A caller who is not signed in, for a call that is a sign-in and nothing else."""
    return replace(caller, is_signing_in=True)


#: The command line and the system's own duties.
SYSTEM = Actor(ActorKind.SYSTEM)


def machine_actor(machine_id: uuid.UUID, source_address: str | None = None) -> Actor:
    return Actor(ActorKind.MACHINE, id=machine_id, source_address=source_address)
