import strawberry

from remotegpu_core import models
from remotegpu_graphql.ids import encode_id
from remotegpu_graphql.relay import Node
from remotegpu_graphql.scalars import DateTime


@strawberry.type(
    description="A public key that signs its user in on what is allocated to them, for as long as it is."
)
class SshKey(Node):
    name: str = strawberry.field(description="What its user calls it.")
    algorithm: str = strawberry.field(description="OpenSSH's name of its type: ssh-ed25519, ...")
    fingerprint: str = strawberry.field(description="As `ssh-keygen -l` shows it: SHA256:...")
    comment: str = strawberry.field(description="What stood behind the key; may be empty.")
    created_at: DateTime = strawberry.field(description="When it was added.")

    @classmethod
    def of(cls, row: models.SshKey) -> "SshKey":
        return cls(
            id=encode_id("SshKey", row.id),
            name=row.name,
            algorithm=row.algorithm,
            fingerprint=row.fingerprint,
            comment=row.comment,
            created_at=DateTime(row.created_at),
        )
