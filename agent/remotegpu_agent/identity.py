"""Who this host is: its key, and the machine that the key speaks for."""

from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from remotegpu_agent.errors import NotEnrolled, StateDirectoryError
from remotegpu_agent.state_directory import StateDirectory

_IDENTITY: Final = "identity.json"

#: The key of an enrolment that has not been answered yet. It is on the disk before it is sent, so
#: that a lost answer costs nothing: enrolling again with the same key succeeds.
_ENROLLING: Final = "enrolling.key"

_KEY_BYTES: Final = 32


class HostKey:
    """An Ed25519 private key; a `remotegpu_protocol.keys.Signer`."""

    def __init__(self, secret: bytes) -> None:
        self._key = Ed25519PrivateKey.from_private_bytes(secret)

    @classmethod
    def generate(cls) -> "HostKey":
        return cls(Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def public_key(self) -> bytes:
        return self._key.public_key().public_bytes_raw()

    def sign(self, statement: bytes) -> bytes:
        return self._key.sign(statement)

    def secret(self) -> bytes:
        """The 32 bytes to keep in the state directory, and nowhere else."""
        return self._key.private_bytes_raw()

    def __repr__(self) -> str:
        return f"HostKey({self.public_key.hex()[:8]}…)"


class Identity:
    """An enrolled host. `origin` is normalised; `ca_file` is a path, or None for the system's."""

    def __init__(
        self,
        *,
        key: HostKey,
        machine_id: str,
        machine_name: str,
        origin: str,
        ca_file: str | None = None,
    ) -> None:
        self.key = key
        self.machine_id = machine_id
        self.machine_name = machine_name
        self.origin = origin
        self.ca_file = ca_file


class _Stored(msgspec.Struct, omit_defaults=True):
    # Key and machine share a file, so that one rename changes both or neither.
    secret_key: bytes
    machine_id: str
    machine_name: str
    origin: str
    ca_file: str | None = None


def load_identity(directory: StateDirectory) -> Identity:
    """The identity kept in `directory`.

    Raises:
        NotEnrolled: there is none.
        StateDirectoryError: it is open to others or damaged.
    """
    content = None
    if directory.exists():
        directory.check()
        content = directory.read(_IDENTITY)
    if content is None:
        raise NotEnrolled(
            f"This host is not enrolled ({directory.path} holds no identity). Get a token from "
            "the control plane and run: remotegpu-agent enroll --server URL --token TOKEN"
        )
    try:
        stored = msgspec.json.decode(content, type=_Stored)
        key = HostKey(stored.secret_key)
    except (msgspec.MsgspecError, ValueError):
        raise StateDirectoryError(
            f"{directory.path / _IDENTITY} is damaged. Restore it, or enrol this host again with "
            "--replace."
        ) from None
    return Identity(
        key=key,
        machine_id=stored.machine_id,
        machine_name=stored.machine_name,
        origin=stored.origin,
        ca_file=stored.ca_file,
    )


def store_identity(directory: StateDirectory, identity: Identity) -> None:
    """Keep `identity`, durably, and end the enrolment that led to it."""
    stored = _Stored(
        secret_key=identity.key.secret(),
        machine_id=identity.machine_id,
        machine_name=identity.machine_name,
        origin=identity.origin,
        ca_file=identity.ca_file,
    )
    directory.write(_IDENTITY, msgspec.json.format(msgspec.json.encode(stored)) + b"\n")
    directory.remove(_ENROLLING)


def forget_enrolling_key(directory: StateDirectory) -> None:
    """The next enrolment makes a new key."""
    directory.remove(_ENROLLING)


def enrolling_key(directory: StateDirectory, *, enrolled: HostKey | None) -> HostKey:
    """The key to enrol with: that of an unanswered enrolment, else a new one.

    It differs from `enrolled`, the key that is to be replaced.
    """
    secret = directory.read(_ENROLLING)
    if secret is not None and len(secret) == _KEY_BYTES:
        key = HostKey(secret)
        if enrolled is None or enrolled.public_key != key.public_key:
            return key
    key = HostKey.generate()
    directory.write(_ENROLLING, key.secret())
    return key
