import strawberry

from remotegpu_core.services.allocations import ssh
from remotegpu_graphql.allocations.enums import SshUnavailable
from remotegpu_graphql.machines.ssh_server import SshHostKey


@strawberry.type(description="How to reach what is allocated by SSH.")
class SshAccess:
    command: str = strawberry.field(description="To be typed into a terminal.")
    host: str = strawberry.field(description="Name or address.")
    port: int = strawberry.field(description="TCP port.")
    username: str = strawberry.field(description="The account on the host.")
    host_keys: list[SshHostKey] = strawberry.field(
        description="Of the host, to compare at the first sign-in; empty where its agent tells none."
    )

    @classmethod
    def of(cls, found: ssh.SshAccess) -> "SshAccess":
        return cls(
            command=found.command,
            host=found.host,
            port=found.port,
            username=found.username,
            host_keys=[
                SshHostKey(algorithm=key.algorithm, fingerprint=key.fingerprint)
                for key in found.host_keys
            ],
        )


@strawberry.type(description="Why nobody can sign in to an allocation.")
class SshUnavailableReason:
    code: SshUnavailable = strawberry.field(description="For programs.")
    message: str = strawberry.field(description="For people, with what to do about it.")

    @classmethod
    def of(cls, found: ssh.Unavailable) -> "SshUnavailableReason":
        return cls(code=found.code, message=found.message)
