from tortoise import fields
from tortoise.models import Model

from remotegpu_core.actor import Role
from remotegpu_core.ids import new_id


class User(Model):
    """A person who signs in. Times are milliseconds since the Unix epoch, here and everywhere."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    username = fields.CharField(max_length=64)
    #: `username` in lower case: names that differ by case only are one name.
    username_key = fields.CharField(max_length=64, unique=True)
    password_hash = fields.CharField(max_length=255)
    role = fields.CharEnumField(Role, max_length=16)
    disabled_at = fields.BigIntField(null=True)
    created_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "user_account"
