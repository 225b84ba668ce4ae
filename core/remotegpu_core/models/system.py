from enum import StrEnum
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.user import User


class Version(Model):
    """A counter that grows in the transaction of whatever it counts, see `services.versions`."""

    name = fields.CharField(max_length=32, primary_key=True)
    value = fields.BigIntField(default=0)

    class Meta(Model.Meta):
        table = "version"


class Replica(Model):
    """A running control plane process. One whose `heartbeat_at` is old holds no links any more."""

    id = fields.UUIDField(primary_key=True)
    started_at = fields.BigIntField()
    heartbeat_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "replica"


class Lease(Model):
    """Who does a periodic duty, until when. `token` counts how often it changed hands."""

    name = fields.CharField(max_length=32, primary_key=True)
    holder = fields.UUIDField()
    until = fields.BigIntField()
    token = fields.BigIntField(default=1)

    class Meta(Model.Meta):
        table = "lease"


class ClockStamp(Model):
    """One row: the newest moment at which a process lived whose clock was not doubted."""

    id = fields.SmallIntField(primary_key=True, generated=False, default=1)
    at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "clock_stamp"


class FreezeCause(StrEnum):
    """STARTED: the first process has just started. SILENCE: many machines fell silent at once.
    CLOCK: what a process takes for the time may be wrong."""

    STARTED = "STARTED"
    SILENCE = "SILENCE"
    CLOCK = "CLOCK"


class Freeze(Model):
    """A time in which nothing is destroyed by itself, see `services.freeze`.

    It holds until `until`, which moves on with its causes, or until it is ended.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    cause = fields.CharEnumField(
        FreezeCause, max_length=16, default=FreezeCause.STARTED, db_default="STARTED"
    )
    reason = fields.CharField(max_length=500)
    started_at = fields.BigIntField()
    until = fields.BigIntField(db_index=True)
    ended_at = fields.BigIntField(null=True)
    ended_by: fields.ForeignKeyNullableRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="freezes_ended", on_delete=fields.SET_NULL, null=True
    )
    ended_by_id: UUID | None

    class Meta(Model.Meta):
        table = "frozen_time"
        indexes = (("ended_by_id",),)
