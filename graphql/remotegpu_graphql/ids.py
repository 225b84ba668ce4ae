"""Opaque ids: base64 of a type's name and a UUID. Clients do not look inside."""

import base64
import binascii
import uuid
from collections.abc import Sequence
from typing import Final

import strawberry

from remotegpu_core.errors import NotFound

#: Nothing has it.
NO_OBJECT: Final = uuid.UUID(int=0)


def encode_id(type_name: str, row_id: uuid.UUID) -> strawberry.ID:
    packed = f"{type_name}:{row_id.hex}".encode()
    return strawberry.ID(base64.urlsafe_b64encode(packed).decode().rstrip("="))


def split_id(value: str) -> tuple[str, uuid.UUID] | None:
    """Type and UUID of an id, None for anything that is no id."""
    if len(value) > 200:
        return None
    try:
        padded = value + "=" * (-len(value) % 4)
        packed = base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
        type_name, _, packed_id = packed.partition(":")
        row_id = uuid.UUID(hex=packed_id)
    except (binascii.Error, ValueError):
        return None
    # An object has one id, not one for every way to write a UUID or to pad base64.
    return (type_name, row_id) if encode_id(type_name, row_id) == value else None


def decode_id(value: str, type_name: str, *, field: str | Sequence[str]) -> uuid.UUID:
    """The UUID of an id of `type_name`.

    Raises:
        NotFound: it is malformed or of another type; `field` is the path of the argument.
    """
    parts = split_id(value)
    if parts is None or parts[0] != type_name:
        raise NotFound(f"There is no such {type_name}.", field=field)
    return parts[1]


def decode_optional(
    value: str | None, type_name: str, *, field: str | Sequence[str]
) -> uuid.UUID | None:
    return None if value is None else decode_id(value, type_name, field=field)


def decode_filter(value: str | None, *type_names: str) -> uuid.UUID | None:
    """The UUID to look for, of one of these types or, without any, of all.

    A filter that names an object which is not there finds nothing. Whether it ever was there, is
    the viewer's to see, or is no id at all makes no difference.
    """
    if value is None:
        return None
    type_name, row_id = split_id(value) or ("", NO_OBJECT)
    return row_id if not type_names or type_name in type_names else NO_OBJECT
