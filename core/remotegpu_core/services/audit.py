"""The audit trail: who did, or tried, what to whom, and from where."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from tortoise.queryset import QuerySet

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.ids import new_id
from remotegpu_core.models import AuditEvent, Outcome
from remotegpu_core.paging import Order, Page, PageRequest, fetch_page
from remotegpu_core.texts import storable
from remotegpu_protocol.grammar import clean_text

_BY_TIME = Order("at", descending=True)


async def record(
    actor: Actor,
    action: str,
    *,
    target: tuple[str, uuid.UUID] | None = None,
    outcome: Outcome = Outcome.SUCCEEDED,
    details: Mapping[str, str] | None = None,
    event_id: uuid.UUID | None = None,
) -> None:
    """Write an event within the current transaction.

    `action` is the mutation's name in the graph, `details` are short texts and hold no secret.
    """
    await AuditEvent.create(
        id=event_id or new_id(),
        at=now_ms(),
        actor_kind=actor.kind,
        actor_id=actor.id,
        user_id=actor.user_id,
        action=action,
        target_type=target[0] if target else None,
        target_id=target[1] if target else None,
        outcome=outcome,
        source_address=actor.source_address,
        details={key: clean_text(value) for key, value in (details or {}).items()},
    )


def yes_or_no(changed: object) -> str:
    """The detail that tells a call which changed something from one that found its work done."""
    return "yes" if changed else "no"


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Times in milliseconds since the Unix epoch, `since` included and `until` not.

    `user_id`: a user, by themself or through their tokens; `actor_id`: an API token or a machine.
    """

    user_id: uuid.UUID | None = None
    actor_id: uuid.UUID | None = None
    action: str | None = None
    target_id: uuid.UUID | None = None
    outcome: Outcome | None = None
    since: int | None = None
    until: int | None = None


async def list_events(actor: Actor, request: PageRequest, chosen: AuditFilter) -> Page[AuditEvent]:
    """Events, newest first: all of them for admins, their own for everybody else."""
    query = _visible(actor)
    if chosen.user_id is not None:
        query = query.filter(user_id=chosen.user_id)
    if chosen.actor_id is not None:
        query = query.filter(actor_id=chosen.actor_id)
    if chosen.action is not None:
        query = query.filter(action=chosen.action if storable(chosen.action, 64) else "")
    if chosen.target_id is not None:
        query = query.filter(target_id=chosen.target_id)
    if chosen.outcome is not None:
        query = query.filter(outcome=chosen.outcome)
    if chosen.since is not None:
        query = query.filter(at__gte=chosen.since)
    if chosen.until is not None:
        query = query.filter(at__lt=chosen.until)
    return await fetch_page(query, _BY_TIME, request)


async def visible_events(actor: Actor, ids: list[uuid.UUID]) -> dict[uuid.UUID, AuditEvent]:
    """Of `ids`, the events that the caller may see."""
    if not ids or not actor.is_signed_in:
        return {}
    return {row.id: row for row in await _visible(actor).filter(id__in=ids)}


def _visible(actor: Actor) -> QuerySet[AuditEvent]:
    if actor.is_admin:
        return AuditEvent.all()
    return AuditEvent.filter(user_id=actor.require_user())


async def prune(older_than: int) -> int:
    """Forget events from before `older_than` (milliseconds) and return how many."""
    return await AuditEvent.filter(at__lt=older_than).delete()
