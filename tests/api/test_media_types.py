"""Accept, read as RFC 9110 says."""

import pytest

from remotegpu_api.web.media_types import GRAPHQL_JSON, HTML, JSON, best_of

OFFERED = (JSON, GRAPHQL_JSON, HTML)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        (None, JSON),
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        (BROWSER, HTML),
        (f"{GRAPHQL_JSON}, {JSON}", GRAPHQL_JSON),
        (f"{JSON}, {GRAPHQL_JSON}", JSON),
        (f"*/*, {GRAPHQL_JSON}", GRAPHQL_JSON),
        # Qualities go before everything else, the spelling does not matter.
        (f"{GRAPHQL_JSON};q=0.1, */*;q=0.2", JSON),
        ("APPLICATION/JSON ; Q=0.4 , Text/HTML; q=0.3", JSON),
        # What is refused by name is not taken through a wildcard.
        (f"{JSON};q=0, */*", GRAPHQL_JSON),
        (f"{JSON};q=0, {GRAPHQL_JSON};q=0, */*;q=0.1", HTML),
        (f"application/*;q=0, {JSON};q=0.5", JSON),
        ("application/*;q=0", None),
        ("image/png", None),
        ("*/*;q=0", None),
        # What cannot be read counts for nothing.
        (f"{JSON};q=much, {GRAPHQL_JSON};q=0.1", GRAPHQL_JSON),
        (f"{JSON};q=2, {GRAPHQL_JSON};q=nan, {HTML};q=0.1", HTML),
        ("nonsense, ;;, /, , */*;q=0.1", JSON),
    ],
)
def test_the_best_of_what_is_taken(accept: str | None, chosen: str | None) -> None:
    assert best_of(accept, OFFERED) == chosen
