from uuid import UUID

from tortoise import fields
from tortoise.models import Model

from remotegpu_core.ids import new_id
from remotegpu_core.models.user import User


class Session(Model):
    """A sign-in with user name and password, its token is stored as a hash."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="sessions", on_delete=fields.CASCADE
    )
    user_id: UUID
    token_hash = fields.CharField(max_length=64, unique=True)
    created_at = fields.BigIntField()
    expires_at = fields.BigIntField(db_index=True)
    revoked_at = fields.BigIntField(null=True)
    source_address = fields.CharField(max_length=64, null=True)
    #: `networks.caller_network` of it.
    source_network = fields.CharField(max_length=64, null=True)

    class Meta(Model.Meta):
        table = "session"
        indexes = (("user_id",),)


class ApiToken(Model):
    """A token for programs, `scopes` is a list of `Scope` values."""

    id = fields.UUIDField(primary_key=True, default=new_id)
    user: fields.ForeignKeyRelation[User] = fields.ForeignKeyField(
        "remotegpu.User", related_name="api_tokens", on_delete=fields.CASCADE
    )
    user_id: UUID
    name = fields.CharField(max_length=64)
    token_hash = fields.CharField(max_length=64, unique=True)
    scopes: list[str] = fields.JSONField()
    created_at = fields.BigIntField()
    expires_at = fields.BigIntField(null=True)
    revoked_at = fields.BigIntField(null=True)
    last_used_at = fields.BigIntField(null=True)

    class Meta(Model.Meta):
        table = "api_token"
        indexes = (("user_id", "id"),)


class SignInFailure(Model):
    """Attempts that count towards a lockout: `key` says of what (see `services.lockout`)."""

    key = fields.CharField(max_length=200, primary_key=True)
    count = fields.IntField()
    last_at = fields.BigIntField()

    class Meta(Model.Meta):
        table = "sign_in_failure"
