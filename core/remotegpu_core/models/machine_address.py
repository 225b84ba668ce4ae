from enum import StrEnum
from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.machine import Machine
from remotegpu_protocol.inventory import AddressKind


class AddressSource(StrEnum):
    """Who says that a machine has an address."""

    AGENT = "AGENT"
    ADMIN = "ADMIN"


class MachineAddress(Model):
    """An IP address of a machine, in the one spelling that `remotegpu_protocol.addresses` gives it.

    One machine holds an address in a scope: unique among the rows that are `held`, by a partial
    index of the migrations. A machine that says it has another's has a row that is not held: it is
    contested until that one gives it up, or an admin accepts that both have it. Whose claim weighs
    more decides which of the two holds it, see `services.addresses.disputes`.
    """

    id = fields.UUIDField(primary_key=True, default=new_id)
    machine: fields.ForeignKeyRelation[Machine] = fields.ForeignKeyField(
        "remotegpu.Machine", related_name="addresses", on_delete=fields.CASCADE
    )
    machine_id: UUID
    #: See `services.addresses.scope`.
    scope = fields.CharField(max_length=262)
    address = fields.CharField(max_length=45)
    kind = fields.CharEnumField(AddressKind, max_length=16)
    interface = fields.CharField(max_length=255, null=True)
    source = fields.CharEnumField(AddressSource, max_length=8)
    held = fields.BooleanField()
    accepted_at = fields.BigIntField(null=True)
    accepted_reason = fields.CharField(max_length=500, null=True)
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "machine_address"
        unique_together = (("machine", "address"),)
