"""Texts that a database can be asked about."""


def storable(text: str) -> bool:
    """Whether a row could hold `text`: no lone surrogate, and not U+0000, which PostgreSQL refuses.

    What is not storable equals and is part of nothing that is stored.
    """
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
