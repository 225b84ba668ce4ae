"""Who may use a root field: declared on the field, checked before its resolver runs."""

from collections.abc import AsyncIterator, Awaitable, Callable
from enum import StrEnum
from typing import Any

from strawberry.extensions import FieldExtension
from strawberry.types import Info
from strawberry.types.base import StrawberryContainer
from strawberry.types.field import StrawberryField

from remotegpu_core.actor import Actor, Scope
from remotegpu_core.errors import RemoteGPUError
from remotegpu_graphql.errors import is_user_error, top_level, user_error


class Access(StrEnum):
    """PUBLIC: anybody. USER: whoever is signed in. ADMIN: admins with the scope to act as such."""

    PUBLIC = "PUBLIC"
    USER = "USER"
    ADMIN = "ADMIN"


def check_access(actor: Actor, access: Access, scope: Scope) -> None:
    """Raises Unauthenticated or Forbidden unless the actor may use such a field."""
    if access is Access.PUBLIC:
        return
    actor.require_scope(scope)
    if access is Access.ADMIN:
        actor.require_admin()


class Reads(FieldExtension):
    """A query's root field. A lookup that misses is null, not an error."""

    def __init__(self, access: Access) -> None:
        self.access = access

    async def resolve_async(
        self, next_: Callable[..., Awaitable[Any]], source: Any, info: Info, **kwargs: Any
    ) -> Any:
        try:
            check_access(info.context.actor, self.access, Scope.READ)
            return await next_(source, info, **kwargs)
        except RemoteGPUError as error:
            raise top_level(error) from error


class Writes(FieldExtension):
    """A mutation. Its refusals become user errors or top-level errors, and audit events."""

    def __init__(self, access: Access) -> None:
        self.access = access

    async def resolve_async(
        self, next_: Callable[..., Awaitable[Any]], source: Any, info: Info, **kwargs: Any
    ) -> Any:
        actor: Actor = info.context.actor
        try:
            check_access(actor, self.access, Scope.WRITE)
            beyond = info.context.beyond.get(str(info.path.key))
            if beyond is not None:
                raise beyond
            return await next_(source, info, **kwargs)
        except RemoteGPUError as error:
            await info.context.plane.refusals.record(actor, info.field_name, error)
            if is_user_error(error):
                payload_type = _unwrap(info.return_type)
                return payload_type(user_errors=[user_error(error)])
            raise top_level(error) from error


class Watches(FieldExtension):
    """A subscription's root field."""

    def __init__(self, access: Access) -> None:
        self.access = access

    async def resolve_async(
        self, next_: Callable[..., Any], source: Any, info: Info, **kwargs: Any
    ) -> AsyncIterator[Any]:
        try:
            check_access(info.context.actor, self.access, Scope.READ)
        except RemoteGPUError as error:
            raise top_level(error) from error
        stream = next_(source, info, **kwargs)
        if isinstance(stream, Awaitable):
            stream = await stream
        return _translated(stream)


async def _translated(stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
    try:
        async for event in stream:
            yield event
    except RemoteGPUError as error:
        raise top_level(error) from error
    finally:
        close = getattr(stream, "aclose", None)
        if close is not None:
            await close()


def access_of(field: StrawberryField) -> Access | None:
    """What a root field declares, None when it declares nothing."""
    for extension in field.extensions:
        if isinstance(extension, Reads | Writes | Watches):
            return extension.access
    return None


def _unwrap(declared: Any) -> Any:
    while isinstance(declared, StrawberryContainer):
        declared = declared.of_type
    return declared
