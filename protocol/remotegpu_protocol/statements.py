"""The bytes that an agent signs to prove who it is.

Each field is preceded by its length, so that no two different sets of fields give the same
bytes, and the domain tag keeps a signature for one purpose from serving another.
"""

from collections.abc import Sequence
from typing import Final

#: Bytes of a nonce, from either side.
NONCE_BYTES: Final = 32

_CONNECT: Final = b"remotegpu agent connect v1"
_ENROLL: Final = b"remotegpu agent enroll v1"


def connect_statement(
    *,
    machine_id: str,
    origin: str,
    server_nonce: bytes,
    agent_nonce: bytes,
    versions: Sequence[int],
) -> bytes:
    """What a hello's signature covers. `origin` is normalised, as the agent dialled it."""
    return _join(
        _CONNECT,
        machine_id.encode(),
        origin.encode(),
        server_nonce,
        agent_nonce,
        _versions(versions),
    )


def enroll_statement(
    *,
    token: str,
    public_key: bytes,
    origin: str,
    server_nonce: bytes,
    versions: Sequence[int],
) -> bytes:
    """What an enrolment's signature covers: possession of the key that is being registered."""
    return _join(
        _ENROLL,
        token.encode(),
        public_key,
        origin.encode(),
        server_nonce,
        _versions(versions),
    )


def _versions(versions: Sequence[int]) -> bytes:
    return ",".join(str(version) for version in versions).encode()


def _join(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
