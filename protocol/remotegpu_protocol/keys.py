"""Ed25519 keys of hosts: made and kept by agents, checked by the control plane."""

from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from remotegpu_protocol.errors import AuthenticationFailed
from remotegpu_protocol.messages import Enroll, Hello
from remotegpu_protocol.statements import connect_statement, enroll_statement


class Signer(Protocol):
    """Whatever holds a host's private key."""

    @property
    def public_key(self) -> bytes:
        """The raw 32 bytes of the public key."""
        ...

    def sign(self, statement: bytes) -> bytes:
        """The 64 bytes of an Ed25519 signature."""
        ...


def verify_hello(hello: Hello, *, public_key: bytes, nonce: bytes) -> None:
    """Check that the machine's key signed this very hello for this very connection.

    Raises:
        AuthenticationFailed: it did not.
    """
    statement = connect_statement(
        machine_id=hello.machine_id,
        origin=hello.origin,
        server_nonce=nonce,
        agent_nonce=hello.nonce,
        versions=hello.versions,
    )
    if not _fits(public_key, hello.signature, statement):
        raise AuthenticationFailed(
            "The signature does not fit the machine's registered key. If the host was "
            "reinstalled, enrol it again."
        )


def verify_enroll(enroll: Enroll, *, nonce: bytes) -> None:
    """Check that the caller holds the key that it wants registered; raises like `verify_hello`."""
    statement = enroll_statement(
        token=enroll.token,
        public_key=enroll.public_key,
        origin=enroll.origin,
        server_nonce=nonce,
        versions=enroll.versions,
    )
    if not _fits(enroll.public_key, enroll.signature, statement):
        raise AuthenticationFailed(
            "The signature of the enrolment does not fit the public key in it. Expected Ed25519 "
            "by that key over the enrol statement: this connection's nonce, and the token, origin "
            "and versions of the message."
        )


def _fits(public_key: bytes, signature: bytes, statement: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, statement)
    except (InvalidSignature, ValueError):
        return False
    return True
