"""Secrets that the system hands out: made here, stored as hashes only.

They hold 256 random bits, so a plain SHA-256 is enough to store them by; what users make up is
hashed in `passwords`.
"""

import hashlib
import secrets
from enum import StrEnum


class Kind(StrEnum):
    """The prefix says what a leaked secret opens, to people and to secret scanners."""

    SESSION = "rgs"
    API_TOKEN = "rga"  # noqa: S105 - a prefix
    ENROLLMENT = "rge"
    DEVICE = "rgd"


def new_secret(kind: Kind) -> str:
    return f"{kind}_{secrets.token_urlsafe(32)}"


def secret_hash(secret: str) -> str:
    """What is stored: 64 hex digits."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def kind_of(secret: str) -> Kind | None:
    prefix, _, rest = secret.partition("_")
    if not rest or len(secret) > 128:
        return None
    return next((kind for kind in Kind if kind == prefix), None)
