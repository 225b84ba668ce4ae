"""Documents that are made to cost more than they look, and what is kept of them."""

import time

import pytest
from graphql import parse

from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.recent import Recent
from remotegpu_graphql.engine import Engine, RequestRefused
from tests.graphql_schema.asking import ask
from tests.graphql_schema.people import as_admin

#: Seconds of processor time that a hostile document may take: far more than it does, far less than
#: walking every spread of it would.
SOON = 3.0


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
        ("doubling, plain", _chain(70, 2, "machines { total }"), "LIMIT_EXCEEDED"),
        ("doubling, leaves", _chain(70, 2, "__typename"), None),
        ("doubling, aliases", _chain(70, 2, "a: __typename"), "LIMIT_EXCEEDED"),
        ("doubling, directives", _chain(70, 2, "__typename @skip(if: false)"), "LIMIT_EXCEEDED"),
        ("tenfold", _chain(25, 10, "machines { total }"), "LIMIT_EXCEEDED"),
        ("mesh", _mesh(26), None),
        ("long chain", _chain(110, 1, "machines { total }"), None),
        ("one field often", "{ " + "fleet { machines { total } } " * 140 + "}", None),
        ("one leaf often", "{ fleet { " + "__typename " * 980 + "} }", "GRAPHQL_VALIDATION_FAILED"),
        ("many selections", "{ " + "fleet { gpus { total } machines { total } } " * 90 + "}", None),
        ("deep selections", "{ a " * 300 + "}" * 300, "LIMIT_EXCEEDED"),
        ("deep lists", "{ nodes(ids: " + "[" * 450 + "]" * 450 + ") { id } }", "LIMIT_EXCEEDED"),
        (
            "deep objects",
            "{ machines(filter: " + "{a: " * 240 + "1" + "}" * 240 + ") { a } }",
            None,
        ),
        ("deep types", "query Q($a: " + "[" * 450 + "Int" + "]" * 450 + ") { fleet { a } }", None),
        ("deep inline", "{ fleet { " + "... { " * 200 + "__typename" + " }" * 200 + "} }", None),
        ("cycle of one", "{ fleet { ...A } } fragment A on Fleet { ...A }", None),
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
    engine, began = Engine(), time.process_time()
    code = None
    try:
        engine.price(engine.prepare(source, None, signed_in=True), {})
    except RequestRefused as refused:
        code = str((refused.errors[0].extensions or {})["code"])
    assert time.process_time() - began < SOON, name
    if expected is not None:
        assert code == expected, name


async def test_hostile_document_that_costs_nothing_runs_soon(plane: ControlPlane) -> None:
    """Fragments are collected once, however often they are spread."""
    began = time.process_time()
    body = await ask(plane, await as_admin(), _chain(70, 2, "__typename"))
    assert body["data"] == {"fleet": {"__typename": "Fleet"}}
    assert time.process_time() - began < SOON


def test_memory_of_documents_is_bounded() -> None:
    """Documents beyond a length are not kept, and of the others only the latest."""
    engine = Engine()
    long = "{ fleet { __typename } } #" + "x" * 20_000
    engine.prepare(long, None, signed_in=True)
    assert long not in engine._documents
    for number in range(505):
        engine.prepare(f"{{ fleet {{ __typename }} }} # {number}", None, signed_in=True)
    assert len(engine._documents) == 500
    # Tokens take the memory, so long documents are kept in a smaller number.
    queries = ["{ " + "...x " * 490 + f"}} # {number}" for number in range(70)]
    for query in queries:
        # What is wrong with a document is kept like the document.
        with pytest.raises(RequestRefused):
            engine.prepare(query, None, signed_in=False)
    assert len(engine._documents) == 60_000 // parse(queries[-1]).token_count
    assert engine._documents.weight <= 60_000
    assert queries[-1] in engine._documents


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
