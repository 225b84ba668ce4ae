"""The origin of a web page, as browsers write it in the header Origin (RFC 6454, 6.2)."""

import re
from typing import Final

from remotegpu_protocol.errors import InvalidValue
from remotegpu_protocol.grammar import shorten
from remotegpu_protocol.origin import normalise_origin

#: Pages that come from no web server: of a browser's extension, of a desktop application.
_OTHER_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(?::[0-9]{1,5})?")
_WEB: Final = re.compile(r"https?://[^/?#]*/?", re.IGNORECASE)


def page_origin(text: str) -> str:
    """An origin in the one spelling that browsers send, such as https://studio.apollographql.com.

    Raises:
        InvalidValue: not an origin, or more than one: a path, a wildcard, `null`.
    """
    if _WEB.fullmatch(text):
        return normalise_origin(text)
    lowered = text.lower()
    if _OTHER_SCHEME.fullmatch(lowered) and not lowered.startswith(
        ("http:", "https:", "ws:", "wss:", "ftp:", "file:")
    ):
        return lowered
    raise InvalidValue(
        "Expected the origin of one page, as its browser sends it: https://app.example.org, "
        f"without a path, or altair://- of a desktop application; got {shorten(text)!r}."
    )
