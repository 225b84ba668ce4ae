"""Grammars of names and texts, checked on both ends."""

import re
import unicodedata
from typing import Final

from remotegpu_protocol.errors import InvalidValue

MACHINE_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")
LABEL_KEY: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?")
#: An allocation's account on its host: 60 bits of a digest of the allocation's id in base32.
ACCOUNT_NAME: Final = re.compile(r"^rg-[a-z2-7]{12}\Z")
MAX_LABEL_VALUE: Final = 255

#: Letters and marks that are shown as nothing or as a blank, though Unicode calls them neither.
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")

_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

# What firmware vendors leave in the SMBIOS UUID field when nobody filled it in.
_PLACEHOLDER_UUIDS: Final = frozenset(
    {
        "00000000-0000-0000-0000-000000000000",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
        "03000200-0400-0500-0006-000700080009",
        "00020003-0004-0005-0006-000700080009",
        "12345678-1234-5678-90ab-cddeefaabbcc",
        "12345678-1234-1234-1234-123456789abc",
        "fefefefe-fefe-fefe-fefe-fefefefefefe",
    }
)


def check_machine_name(name: str) -> str:
    """Return `name` when it may name a machine.

    Raises:
        InvalidValue: it is empty, longer than 63 characters or holds anything but letters,
            digits, `.`, `_` and `-`.
    """
    if not MACHINE_NAME.fullmatch(name):
        raise InvalidValue(
            "A machine name has 1 to 63 letters, digits, '.', '_' or '-' and begins and ends "
            f"with a letter or digit; got {shorten(name)!r}."
        )
    return name


def check_label(key: str, value: str) -> tuple[str, str]:
    """Return the label, its value in NFC, when its key and value keep the grammar.

    Raises:
        InvalidValue: the key or the value does not.
    """
    if not LABEL_KEY.fullmatch(key):
        raise InvalidValue(
            "A label key has 1 to 63 letters, digits, '.', '_', '-' or '/' and begins and ends "
            f"with a letter or digit; got {shorten(key)!r}."
        )
    value = unicodedata.normalize("NFC", value[: MAX_LABEL_VALUE + 1])
    if len(value) > MAX_LABEL_VALUE or value != clean_text(value, MAX_LABEL_VALUE):
        raise InvalidValue(
            f"A label value has at most {MAX_LABEL_VALUE} printable characters; "
            f"{key!r} has {shorten(value)!r}."
        )
    return key, value


def clean_text(raw: str | bytes, limit: int = 255) -> str:
    """Text that is safe to store, send and show, whatever a driver or a process made of it.

    Bytes that are not UTF-8 and lone surrogates become U+FFFD; control and format characters
    (line breaks and bidirectional overrides too) and those that nothing is seen of become spaces;
    the ends are stripped; anything beyond `limit` characters is cut.
    """
    if isinstance(raw, str) and raw.isascii() and raw.isprintable():
        return raw.strip()[:limit].rstrip()
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else _without_surrogates(raw)
    # Twice the limit is enough to look at, since only the ends lose characters.
    spaced = "".join(
        " "
        if unicodedata.category(character) in {"Cc", "Cf", "Zl", "Zp"} or character in _INVISIBLE
        else character
        for character in text.strip()[: limit * 2]
    )
    return spaced.strip()[:limit].rstrip()


def _without_surrogates(text: str) -> str:
    surrogates = [character for character in text if "\ud800" <= character <= "\udfff"]
    if not surrogates:
        return text
    if all("\udc80" <= character <= "\udcff" for character in surrogates):
        # How Python hands over bytes that it could not decode: file names, arguments.
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)


def hardware_uuid(raw: str | None) -> str | None:
    """The canonical form of an SMBIOS UUID, or None where it identifies nothing."""
    if raw is None:
        return None
    text = raw.strip().lower()
    if not _UUID.fullmatch(text) or text in _PLACEHOLDER_UUIDS:
        return None
    if len(set(text.replace("-", ""))) == 1:
        return None
    return text


def shorten(text: str, limit: int = 80) -> str:
    """`text` as it may stand in an error message."""
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
