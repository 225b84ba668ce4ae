"""Hypothesis: documents that are as dear to read as the bounds allow, valid and invalid.

A document is made of a few kinds of selection, each so many times, and is cut to what just fits the
bounds. `hypothesis.target` with what reading it takes makes a search of that.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from graphql import (
    GraphQLError,
    GraphQLObjectType,
    GraphQLSchema,
    get_named_type,
    is_leaf_type,
    parse,
)
from hypothesis import strategies as st

from remotegpu_graphql.documents import Documents
from remotegpu_graphql.engine import Engine
from remotegpu_graphql.errors import RequestRefused
from remotegpu_graphql.fragments import FragmentCycle
from remotegpu_graphql.limits import (
    MAX_LENGTH,
    MAX_LENGTH_OF_STRANGERS,
    MAX_TOKENS,
    MAX_TOKENS_OF_STRANGERS,
    check_document,
    check_source,
)

SCHEMA: Final = Engine().schema

#: Calls that reading a document may take, and one of a stranger. A call takes some 0.15
#: microseconds, so these are some 22 and 11 milliseconds.
MOST_CALLS: Final = 150_000
MOST_CALLS_OF_STRANGERS: Final = 75_000


def calls_of(run: Callable[[], object]) -> int:
    """Calls of functions, Python's own included: nearly the same in every run, unlike time."""
    counted = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal counted
        counted += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(before)
    return counted


def read_anew(source: str, *, signed_in: bool = True) -> str | None:
    """Read a document that nothing is known of; the code with which it is refused."""
    try:
        Documents(SCHEMA).read(source, signed_in=signed_in)
    except RequestRefused as refused:
        # What goes back is made of them.
        told = [error.formatted for error in refused.errors]
        return str(told[0].get("extensions", {})["code"])
    return None


def _leaves(schema: GraphQLSchema, type_name: str) -> list[str]:
    type_ = schema.type_map[type_name]
    assert isinstance(type_, GraphQLObjectType)
    return [
        name for name, field in type_.fields.items() if is_leaf_type(get_named_type(field.type))
    ]


_MACHINE: Final = _leaves(SCHEMA, "Machine")


def _filtered(fields: str) -> str:
    return f"machines(filter: {{ {fields} }}) {{ totalCount }}"


def _after(text: str) -> str:
    return f"machines(after: {text}) {{ totalCount }}"


def _nodes(ids: str) -> str:
    return f"nodes(ids: [{ids}]) {{ id }}"


#: Selections of Query by what they try, with a number that tells them apart and a size.
UNITS: Final[dict[str, Callable[[int, int], str]]] = {
    "viewer": lambda _n, _size: "viewer { user { id } }",
    "typename": lambda _n, _size: "__typename",
    "alias": lambda n, _size: f"a{n}: __typename",
    "unknown field": lambda n, size: f"machine{n}{'e' * size}",
    "unknown type": lambda n, size: f"... on Machine{n}{'e' * size} {{ a{n} }}",
    "unknown directive": lambda n, _size: f"fleet @skipp{n} {{ __typename }}",
    "unknown argument": lambda n, _size: f"machines(firs{n}: 1) {{ totalCount }}",
    "unknown inputs": lambda _n, size: _filtered(" ".join(f"presence{i}: 1" for i in range(size))),
    "unknown values": lambda _n, size: _filtered(
        f"presence: [{' '.join(f'ONLIN{i}' for i in range(size))}]"
    ),
    "wrong values": lambda _n, size: _nodes("{a: 1} " * size),
    "ids": lambda _n, size: _nodes('"a" ' * size),
    "labels": lambda _n, size: _filtered("labels: [" + '{key: "a" value: "b"} ' * size + "]"),
    "variables": lambda _n, size: _nodes(" ".join(f"$v{i}" for i in range(size))),
    "text": lambda _n, size: _after('"' + "a" * 40 * size + '"'),
    "escapes": lambda _n, size: _after('"' + r"\u0041" * 7 * size + '"'),
    "block": lambda _n, size: _after('"""' + "\n a" * 13 * size + '"""'),
    "inline": lambda n, _size: f"... on Query {{ fleet {{ a{n}: __typename }} }}",
    "nested": lambda _n, size: "... { " * (size % 36) + "__typename" + " }" * (size % 36),
    "wide": lambda n, size: (
        f"machines {{ edges {{ node {{ {' '.join(_MACHINE[n % 7 :][:size])} }} }} }}"
    ),
    "deep": lambda _n, _size: 'gpu(id: "a") { machine { gpus { machine { gpus { id uuid } } } } }',
    "union": lambda _n, _size: (
        "auditEvents { edges { node { actor { ... on User { id } ... on Machine { id } } } } }"
    ),
    "schema": lambda _n, _size: "__schema { types { name fields { name type { name } } } }",
    "spread": lambda n, _size: f"...F{n}",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """`parts` are kinds of selection, each so many times and of such a size. Fragments, as many as
    are spread, hold `within`, and each spreads so many of the next."""

    parts: tuple[tuple[str, int, int], ...]
    within: str = "typename"
    spreads: int = 0
    operations: int = 1
    padding: str = " "
    padded: int = 0

    def document(self, share: float = 1.0) -> str:
        """All of it, or a share of its selections."""
        selections: list[str] = []
        fragments = 0
        variables = 0
        for kind, count, size in self.parts:
            for number in range(max(1, round(count * share))):
                selections.append(UNITS[kind](number, size))
                if kind == "spread":
                    fragments = max(fragments, number + 1)
                if kind == "variables":
                    variables = max(variables, size)
        declared = " ".join(f"$v{number}: ID" for number in range(variables))
        body = "{ " + " ".join(selections) + " }"
        heads = [
            f"query Q{n} {f'({declared})' if declared else ''}" for n in range(self.operations)
        ]
        parts = [f"{head} {body if n == 0 else '{ ...F0 }'}" for n, head in enumerate(heads)]
        if self.operations > 1:
            fragments = max(fragments, 1)
        for number in range(fragments):
            following = range(number + 1, min(fragments, number + 1 + self.spreads))
            spread = " ".join(f"...F{other}" for other in following)
            parts.append(
                f"fragment F{number} on Query {{ {spread} {UNITS[self.within](number, 8)} }}"
            )
        source = " ".join(parts)
        return source + self.padding * max(0, min(self.padded, MAX_LENGTH - len(source)))

    def fitting(self, *, signed_in: bool = True) -> str:
        """As much of it as no bound refuses."""
        low, high = 0.0, 1.0
        if _fits(whole := self.document(), signed_in=signed_in):
            return whole
        for _ in range(9):
            middle = (low + high) / 2
            if _fits(self.document(middle), signed_in=signed_in):
                low = middle
            else:
                high = middle
        return self.document(low)


def _fits(source: str, *, signed_in: bool) -> bool:
    if len(source) > MAX_LENGTH_OF_STRANGERS and not signed_in:
        return False
    try:
        check_source(source)
        check_document(
            parse(source, max_tokens=MAX_TOKENS if signed_in else MAX_TOKENS_OF_STRANGERS)
        )
    except GraphQLError:
        return False
    except FragmentCycle:
        pass
    return True


def recipes() -> st.SearchStrategy[Recipe]:
    kinds = sorted(UNITS)
    part = st.tuples(st.sampled_from(kinds), st.integers(1, 400), st.integers(1, 80))
    return st.builds(
        Recipe,
        parts=st.lists(part, min_size=1, max_size=4).map(tuple),
        within=st.sampled_from([kind for kind in kinds if kind not in {"spread", "variables"}]),
        spreads=st.integers(0, 50),
        operations=st.integers(1, 20),
        padding=st.sampled_from([" ", "\n", ",", "\n\r"]),
        padded=st.integers(0, MAX_LENGTH),
    )


#: The dearest documents that long searches found.
WORST: Final = {
    "unknown fields with long names": Recipe(
        (("union", 12, 1), ("unknown field", 383, 33)), within="schema", spreads=1, operations=19
    ),
    "variables and missing fragments": Recipe(
        (("viewer", 200, 80), ("variables", 24, 60), ("spread", 400, 3)),
        within="unknown field",
        spreads=2,
        padding="\n",
        padded=1900,
    ),
    "operations and labels": Recipe(
        (("schema", 100, 3), ("labels", 400, 20), ("union", 480, 3), ("inline", 274, 12)),
        within="inline",
        spreads=32,
        operations=20,
    ),
    "deep unions and wrong inputs": Recipe(
        (("union", 800, 4), ("deep", 512, 1), ("ids", 400, 1), ("unknown inputs", 195, 80)),
        within="viewer",
        spreads=2,
        operations=14,
    ),
    "repeated lists": Recipe((("wide", 48, 1),), within="union", spreads=33, operations=6),
    "fragments with wrong inputs": Recipe(
        (("spread", 15, 1), ("block", 10, 80), ("viewer", 164, 80)),
        within="unknown inputs",
        spreads=1,
        operations=13,
    ),
}
