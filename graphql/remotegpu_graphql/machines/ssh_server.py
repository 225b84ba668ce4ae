from typing import Any

import strawberry

from remotegpu_core.services.allocations.ssh import PORT


@strawberry.type(description="A key by which an SSH server proves that it is the host.")
class SshHostKey:
    algorithm: str = strawberry.field(description="Such as ssh-ed25519.")
    fingerprint: str = strawberry.field(
        description="As ssh shows it at the first sign-in, and ssh-keygen -l on the host."
    )


@strawberry.type(description="The SSH server of a host.")
class HostSshServer:
    port: int = strawberry.field(description="TCP port on which it listens, the first of several.")
    host_keys: list[SshHostKey] = strawberry.field(
        description="The host's keys, to compare at the first sign-in."
    )
    refusal: str | None = strawberry.field(
        description="Why it would not let the account of an allocation in, with what to change on "
        "the host; null where nothing is known to keep it out, and where allocations get no account."
    )

    @classmethod
    def of(cls, server: dict[str, Any]) -> "HostSshServer":
        """As the host's agent last said."""
        return cls(
            port=server.get("port", PORT),
            host_keys=[
                SshHostKey(algorithm=key["algorithm"], fingerprint=key["fingerprint"])
                for key in server.get("host_keys", [])
            ],
            refusal=server.get("refusal"),
        )
