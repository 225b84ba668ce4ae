"""Documents that are made to cost more than they look, and what is kept of them."""

import pytest
from graphql import parse

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.recent import Recent
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import RequestRefused
from tests.graphql_schema.asking import ask
from tests.graphql_schema.people import as_admin
from tests.graphql_schema.worst_documents import MOST_CALLS, calls_of


def _chain(length: int, spreads: int, leaf: str) -> str:
    """Fragments that each spread the next one `spreads` times."""
    parts = [f"fragment F{i} on Fleet {{ {f'...F{i + 1} ' * spreads}}}" for i in range(length)]
    return "{ fleet { ...F0 } } " + " ".join(parts) + f" fragment F{length} on Fleet {{ {leaf} }}"


def _mesh(size: int) -> str:
    """Every fragment spreads every one after it."""
    parts = [
        f"fragment F{i} on Fleet {{ {''.join(f'...F{j} ' for j in range(i + 1, size))} __typename }}"
        for i in range(size)
    ]
    return "{ fleet { ...F0 } } " + " ".join(parts)


@pytest.mark.parametrize(
    ("name", "source", "expected"),
    [
        ("doubling, plain", _chain(35, 2, "machines { total }"), "LIMIT_EXCEEDED"),
        ("doubling, leaves", _chain(35, 2, "__typename"), None),
        ("doubling, aliases", _chain(35, 2, "a: __typename"), "LIMIT_EXCEEDED"),
        ("doubling, directives", _chain(35, 2, "__typename @skip(if: false)"), "LIMIT_EXCEEDED"),
        ("tenfold", _chain(25, 10, "machines { total }"), "LIMIT_EXCEEDED"),
        ("mesh", _mesh(26), "LIMIT_EXCEEDED"),
        ("small mesh", _mesh(12), None),
        ("too many", _chain(50, 1, "machines { total }"), "LIMIT_EXCEEDED"),
        ("long chain", _chain(36, 1, "machines { total }"), None),
        ("one field often", "{ " + "fleet { machines { total } } " * 140 + "}", "LIMIT_EXCEEDED"),
        ("one leaf often", "{ fleet { " + "__typename " * 980 + "} }", "LIMIT_EXCEEDED"),
        (
            "many selections",
            "{ " + "fleet { gpus { total } machines { total } } " * 90 + "}",
            "LIMIT_EXCEEDED",
        ),
        ("deep selections", "{ a " * 300 + "}" * 300, "LIMIT_EXCEEDED"),
        ("deep selections that are read", "{ a " * 190 + "}" * 190, "LIMIT_EXCEEDED"),
        ("deep lists", "{ nodes(ids: " + "[" * 450 + "]" * 450 + ") { id } }", "LIMIT_EXCEEDED"),
        (
            "deep objects",
            "{ machines(filter: " + "{a: " * 240 + "1" + "}" * 240 + ") { a } }",
            "LIMIT_EXCEEDED",
        ),
        (
            "objects that are read",
            "{ machines(filter: " + "{a: " * 190 + "1" + "}" * 190 + ") { a } }",
            "GRAPHQL_VALIDATION_FAILED",
        ),
        (
            "deep types",
            "query Q($a: " + "[" * 450 + "Int" + "]" * 450 + ") { fleet { a } }",
            "LIMIT_EXCEEDED",
        ),
        (
            "types that are read",
            "query Q($a: " + "[" * 190 + "Int" + "]" * 190 + ") { fleet { a } }",
            "GRAPHQL_VALIDATION_FAILED",
        ),
        (
            "deep inline",
            "{ fleet { " + "... { " * 200 + "__typename" + " }" * 200 + "} }",
            "LIMIT_EXCEEDED",
        ),
        (
            "cycle of one",
            "{ fleet { ...A } } fragment A on Fleet { ...A }",
            "GRAPHQL_VALIDATION_FAILED",
        ),
        (
            "cycle of two",
            "{ fleet { ...A } } fragment A on Fleet { ...B } fragment B on Fleet { ...A }",
            "GRAPHQL_VALIDATION_FAILED",
        ),
        ("missing fragment", "{ fleet { ...A } }", "GRAPHQL_VALIDATION_FAILED"),
        ("only a fragment", "fragment A on Fleet { __typename }", "GRAPHQL_VALIDATION_FAILED"),
        ("nothing", "", "GRAPHQL_PARSE_FAILED"),
        ("a comment", "# nothing", "GRAPHQL_PARSE_FAILED"),
        ("a type", "type A { b: Int }", "GRAPHQL_VALIDATION_FAILED"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 30 else "",
)
def test_hostile_document_is_dealt_with_soon(name: str, source: str, expected: str | None) -> None:
    engine = Engine()
    code = None

    def read() -> None:
        nonlocal code
        try:
            engine.price(engine.prepare(source, None, signed_in=True), {})
        except RequestRefused as refused:
            code = str((refused.errors[0].extensions or {})["code"])

    assert calls_of(read) < MOST_CALLS, name
    assert code == expected, name


async def test_hostile_document_that_costs_nothing_runs_soon(plane: ControlPlane) -> None:
    """Fragments are collected once, however often they are spread."""
    body = await ask(plane, await as_admin(), _chain(35, 2, "__typename"))
    assert body["data"] == {"fleet": {"__typename": "Fleet"}}


def test_memory_of_documents_is_bounded() -> None:
    """Of callers who are signed in, and of strangers, only the latest documents are kept."""
    engine = Engine()
    for number in range(505):
        engine.prepare(f"{{ fleet {{ __typename }} }} # {number}", None, signed_in=True)
    assert len(engine.documents) == 500
    for number in range(60):
        engine.prepare(f"{{ fleet {{ __typename }} }} # a{number}", None, signed_in=False)
    # Strangers push out none of the others.
    assert len(engine.documents) == 550
    assert "{ fleet { __typename } } # 504" in engine.documents
    assert "{ fleet { __typename } } # a59" in engine.documents
    # Tokens take the memory, so long documents are kept in a smaller number.
    queries = ["{ " + "...x " * 490 + f"}} # {number}" for number in range(70)]
    for query in queries:
        # What is wrong with a document is kept like the document.
        with pytest.raises(RequestRefused):
            engine.prepare(query, None, signed_in=True)
    assert engine.documents.tokens <= 60_000 + 50 * 250
    assert len(engine.documents) == 50 + 60_000 // parse(queries[-1]).token_count
    assert queries[-1] in engine.documents


def test_what_was_used_last_is_kept() -> None:
    recent: Recent[str, int] = Recent(count=3, weight=10)
    for key, weight in (("a", 1), ("b", 1), ("c", 1)):
        recent.put(key, weight, weight)
    assert recent.get("a") == 1
    recent.put("d", 4, 4)
    assert (len(recent), recent.weight, recent.get("b")) == (3, 6, None)
    recent.put("e", 6, 6)
    assert (len(recent), recent.weight, "d" in recent, "c" in recent) == (2, 10, True, False)
    recent.put("too heavy", 11, 11)
    assert (len(recent), recent.weight) == (0, 0)
