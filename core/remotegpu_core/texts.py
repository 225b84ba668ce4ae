"""Texts that people give: in one form, and such that a database can hold them."""

import unicodedata
from collections.abc import Iterable
from typing import Final

from remotegpu_core.errors import InvalidInput
from remotegpu_protocol.grammar import clean_text

MAX_NAME: Final = 64


def storable(text: str, limit: int | None = None) -> bool:
    """Whether a row could hold `text`, in a column of `limit` characters if given.

    Not a lone surrogate, nor U+0000, which PostgreSQL refuses. What is not storable equals and is
    part of nothing that is stored.
    """
    if limit is not None and len(text) > limit:
        return False
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def composed(text: str) -> str:
    """The text in Unicode's form NFC: macOS types some letters as two characters, others as one."""
    return unicodedata.normalize("NFC", text)


def composed_labels(labels: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Labels that are looked for, in the form in which they are kept."""
    return [(key, composed(value)) for key, value in labels]


def name_key(name: str) -> str:
    """What names are compared by: the same in any case, width and composition."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    # Folding may leave what composes further.
    return unicodedata.normalize("NFKC", folded)


def checked_name(name: str, owner: str, *, field: str = "name") -> str:
    """A name that others are shown, in NFC. `owner` is for the message: "A dataset".

    Raises:
        InvalidInput: it is empty, too long, begins or ends with a blank, or holds characters that
            are not seen.
    """
    # Composing makes three characters of one at most.
    found = composed(name[: 3 * MAX_NAME + 1])
    if not found or found != clean_text(found, MAX_NAME) or len(name_key(found)) > MAX_NAME:
        raise InvalidInput(
            f"{owner}'s name has 1 to {MAX_NAME} printable characters, and no blank at its ends.",
            field=field,
        )
    return found
