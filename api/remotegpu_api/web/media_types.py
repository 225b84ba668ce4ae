"""Media types of requests and answers: the headers Accept and Content-Type (RFC 9110)."""

from collections.abc import Iterator, Sequence
from email.message import Message
from typing import Final

from remotegpu_api.request import BadRequest

GRAPHQL_JSON: Final = "application/graphql-response+json"
JSON: Final = "application/json"
HTML: Final = "text/html"

_UTF8: Final = frozenset({"utf-8", "utf8", "us-ascii"})


def best_of(accept: str | None, offered: Sequence[str]) -> str | None:
    """The type that a caller likes best, None when it takes none of them.

    Of two liked equally, the one that is named more exactly wins, then the one that is named
    earlier, then the one that is offered earlier.
    """
    if accept is None or not accept.strip():
        return offered[0]
    ranges = list(_ranges(accept))
    best: tuple[float, int, int, int] | None = None
    chosen: str | None = None
    for place, media_type in enumerate(offered):
        # The most exact range decides about a type: `*/*, text/html;q=0` takes all but HTML.
        matching = [
            (exactness, -position, quality)
            for position, (wanted, quality) in enumerate(ranges)
            if (exactness := _exactness(wanted, media_type)) is not None
        ]
        if not matching:
            continue
        exactness, position, quality = max(matching)
        rank = (quality, exactness, position, -place)
        if quality > 0 and (best is None or rank > best):
            best, chosen = rank, media_type
    return chosen


def check_content_type(content_type: str) -> None:
    """Refuse a body that is not JSON in UTF-8, before it is read as one.

    Raises:
        BadRequest: another type, or another encoding of its characters.
    """
    header = Message()
    header["Content-Type"] = content_type
    # The library takes what it cannot read for text/plain.
    if header.get_content_type() != JSON:
        raise BadRequest(415, f"Expected Content-Type: application/json, got {content_type!r}.")
    charset = header.get_content_charset()
    if charset is not None and charset not in _UTF8:
        raise BadRequest(415, f"Expected JSON in UTF-8, got {content_type!r}: encode it as UTF-8.")


def _ranges(accept: str) -> Iterator[tuple[str, float]]:
    """Media ranges with their qualities; what cannot be read is passed over."""
    for part in accept.split(","):
        wanted, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    quality = float(value)
                except ValueError:
                    quality = 0.0
        if "/" in wanted and 0 <= quality <= 1:
            yield wanted, quality


def _exactness(wanted: str, media_type: str) -> int | None:
    """2 for the type itself, 1 for `type/*`, 0 for `*/*`, None where a range is about others."""
    if wanted == media_type:
        return 2
    if wanted == f"{media_type.partition('/')[0]}/*":
        return 1
    return 0 if wanted == "*/*" else None
