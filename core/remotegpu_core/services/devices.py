"""Devices on which an account signed in before: they still get in while strangers guess at it.

A device's token is a random number and its authentication code under the account's password hash,
so nothing is stored for it, and all tokens of an account end with its password. It opens nothing:
it only lets its bearer try passwords where others have to wait.
"""

import hashlib
import hmac

from remotegpu_core.models import User
from remotegpu_core.secret import Kind, kind_of, new_secret

_DOMAIN = b"remotegpu device\0"


def new_device(user: User) -> str:
    """A token for the device that `user` just signed in on."""
    device = new_secret(Kind.DEVICE)
    return f"{device}.{_code(user, device)}"


def device_of(user: User | None, token: str | None) -> str | None:
    """What identifies the device that bears `token`; None unless it is one of this user."""
    if user is None or token is None or kind_of(token) is not Kind.DEVICE:
        return None
    device, _, code = token.partition(".")
    expected = _code(user, device)
    return (
        device if hmac.compare_digest(code.encode("utf-8", "replace"), expected.encode()) else None
    )


def _code(user: User, device: str) -> str:
    message = _DOMAIN + user.id.bytes + device.encode("utf-8", "replace")
    return hmac.new(user.password_hash.encode(), message, hashlib.sha256).hexdigest()[:40]
