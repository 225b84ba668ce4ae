"""Texts that a database can be asked about."""


def storable(text: str, limit: int | None = None) -> bool:
    """Whether a row could hold `text`, in a column of `limit` characters if given.

    Not a lone surrogate, nor U+0000, which PostgreSQL refuses. What is not storable equals and is
    part of nothing that is stored.
    """
    if limit is not None and len(text) > limit:
        return False
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
