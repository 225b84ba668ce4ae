from enum import StrEnum

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.actor import ActorKind
from remotegpu_core.ids import new_id


class Outcome(StrEnum):
    """DENIED: the caller may not. FAILED: they may, and it did not work."""

    SUCCEEDED = "SUCCEEDED"
    DENIED = "DENIED"
    FAILED = "FAILED"


class AuditEvent(Model):
    """Something that somebody did or tried. Rows outlive what they speak of, so no foreign keys."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    at = fields.BigIntField()
    actor_kind = fields.CharEnumField(ActorKind, max_length=16)
    actor_id = fields.UUIDField(null=True)
    #: The user behind an API token.
    user_id = fields.UUIDField(null=True)
    action = fields.CharField(max_length=64)
    target_type = fields.CharField(max_length=32, null=True)
    target_id = fields.UUIDField(null=True)
    outcome = fields.CharEnumField(Outcome, max_length=16)
    source_address = fields.CharField(max_length=64, null=True)
    details: dict[str, str] = fields.JSONField(default=dict)

    class Meta(Model.Meta):
        table = "audit_event"
        # Each filter of the list, in the order of the list.
        indexes = (
            ("at", "id"),
            ("user_id", "at", "id"),
            ("actor_id", "at", "id"),
            ("action", "at", "id"),
            ("target_id", "at", "id"),
            ("outcome", "at", "id"),
        )
