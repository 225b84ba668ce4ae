from tortoise import fields
from tortoise.models import Model


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
