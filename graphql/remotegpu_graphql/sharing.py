"""Subscriptions whose events are the same for several viewers are executed once for all of them.

A root field opts in by declaring its streams: each has a key, and viewers with the same document,
the same variables (but for those that only choose streams) and a stream of the same key get the
same bytes. Fields below it opt in with their type's `shareable` mark, or by name with
`share_fields`, which promise that they do not depend on the viewer; a document that reaches any
other field runs per viewer.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane

T = TypeVar("T", bound=type)

_shareable: set[str] = set()
_shareable_fields: set[tuple[str, str]] = set()
_viewer_fields: set[tuple[str, str]] = set()


def shareable(cls: T) -> T:
    """Promise that no field of this Strawberry type depends on who looks."""
    _shareable.add(cls.__strawberry_definition__.name)  # type: ignore[attr-defined]  # set by strawberry.type
    return cls


def share_fields(type_name: str, *field_names: str) -> None:
    """Promise it of these fields of a type alone; a shared execution reaches no others."""
    _shareable_fields.update((type_name, name) for name in field_names)


def viewer_fields(type_name: str, *field_names: str) -> None:
    """Except these fields from a type's promise: a document that reaches one runs per viewer."""
    _viewer_fields.update((type_name, name) for name in field_names)


def is_shareable(type_name: str, field_name: str | None = None) -> bool:
    """Whether a field is promised not to depend on the viewer; without one, all of the type but its
    `viewer_fields`."""
    if (type_name, field_name) in _viewer_fields:
        return False
    return type_name in _shareable or (type_name, field_name) in _shareable_fields


@dataclass(frozen=True, slots=True)
class Stream:
    """Events of one object. `events` yields root values of the subscription, from the current
    state on; equal keys mean equal events."""

    key: Hashable
    events: Callable[[], AsyncIterator[Any]]


#: Chooses a viewer's streams from the field's arguments (by their names in the graph), checking
#: what they may see; called again whenever rights change. Raises RemoteGPUError.
Plan = Callable[[ControlPlane, Actor, Mapping[str, Any]], Awaitable[list[Stream]]]


@dataclass(frozen=True, slots=True)
class Shared:
    """`routing` names the arguments that only choose among streams and leave events alone."""

    plan: Plan
    routing: frozenset[str]


_shared: dict[str, Shared] = {}


def share(field_name: str, plan: Plan, *, routing: frozenset[str] = frozenset()) -> None:
    """Opt the subscription `field_name` (its name in the graph) in."""
    _shared[field_name] = Shared(plan, routing)


def shared_field(field_name: str) -> Shared | None:
    return _shared.get(field_name)
