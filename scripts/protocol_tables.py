"""Renews the tables of docs/protocol.md from the code: types, units, bounds, limits and codes.

    python scripts/protocol_tables.py            say whether the page is out of date (exit code 1)
    python scripts/protocol_tables.py --write    renew it

A table stands between `<!-- table: name -->` and `<!-- end -->`. Its last column is prose, written
in the page by hand and kept when the rest is renewed; an empty one is an error too.
"""

import argparse
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from msgspec import Struct, inspect

from remotegpu_protocol import limits
from remotegpu_protocol.close_codes import PERMANENT, CloseCode
from remotegpu_protocol.errors import ProtocolError
from remotegpu_protocol.kinds import KINDS
from remotegpu_protocol.messages import FromAgent, FromServer

PAGE = Path(__file__).parent.parent / "docs" / "protocol.md"

_BLOCK = re.compile(r"(<!-- table: (?P<name>[\w ]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
_TYPES = {
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "str",
    inspect.BytesType: "bin",
}
_WORDS = ((None, "null"), (False, "false"), (True, "true"))


class PageError(Exception):
    """The page cannot be renewed by machine: somebody has to write something first."""


@dataclass(frozen=True)
class Table:
    """Columns and rows that code decides; the first `key` cells of a row name its prose."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    prose: str = "meaning"
    key: int = 1

    def render(self, kept: dict[tuple[str, ...], str]) -> str:
        lines = [_line((*self.columns, self.prose)), _line(("---",) * (len(self.columns) + 1))]
        lines += [_line((*row, kept.get(row[: self.key], ""))) for row in self.rows]
        return "".join(f"{line}\n" for line in lines)


def tables() -> dict[str, Table]:
    """Every table that the page must hold, by name."""
    found: dict[str, Table] = {}
    for union in (FromServer, FromAgent):
        for message in get_args(union):
            info = inspect.type_info(message)
            if not isinstance(info, inspect.StructType):
                raise TypeError(f"Expected message structs, got {message!r}.")
            found[str(info.tag)] = _fields(info)
            for inner in _inner(info):
                found[inner.cls.__name__] = _any(inner)
    for command in KINDS.values():
        for shape in (command.arguments, command.result):
            info = inspect.type_info(shape)
            if isinstance(info, inspect.StructType) and info.fields:
                found[shape.__name__] = _fields(info)
                found |= {inner.cls.__name__: _any(inner) for inner in _inner(info)}
    found["command kinds"] = Table(
        ("kind", "arguments", "result"),
        tuple((f"`{k.name}`", _link(k.arguments), _link(k.result)) for k in KINDS.values()),
    )
    found["limits"] = Table(
        ("name", "value"),
        tuple(
            (f"`{name}`", f"{value:g}" if isinstance(value, float) else str(value))
            for name, value in vars(limits).items()
            if name.isupper() and isinstance(value, int | float)
        ),
    )
    found["close codes"] = Table(
        ("code", "name", "permanent"),
        tuple(
            (str(code.value), f"`{code.name}`", "yes" if code in PERMANENT else "no")
            for code in CloseCode
        ),
        prose="meaning, and what an agent does",
    )
    found["error codes"] = Table(
        ("code", "close code when fatal"),
        tuple((f"`{kind.code}`", str(kind.close_code)) for kind in _errors(ProtocolError)),
    )
    return found


def renew(page: str, wanted: dict[str, Table] | None = None) -> str:
    """The page with every table as the code has it, and the prose as the page had it.

    `wanted`: the tables of another page than docs/protocol.md.

    Raises:
        PageError: a table has no place in the page, a place no table, or a row no prose.
    """
    wanted = tables() if wanted is None else wanted
    places = [match["name"] for match in _BLOCK.finditer(page)]
    if len(set(places)) != len(places) or set(places) != set(wanted):
        raise PageError(
            f"Expected one place for each table; missing: {sorted(set(wanted) - set(places))}, "
            f"unknown: {sorted(set(places) - set(wanted))}."
        )

    def one(match: re.Match[str]) -> str:
        table = wanted[match["name"]]
        return match[1] + table.render(_prose(match["body"], table)) + match[4]

    return _BLOCK.sub(one, page)


def missing_prose(page: str) -> list[str]:
    """Rows whose last cell is empty, as `table: row`."""
    return [
        f"{match['name']}: {cells[0]}"
        for match in _BLOCK.finditer(page)
        for cells in _cells(match["body"])
        if not cells[-1]
    ]


def _any(info: inspect.StructType | inspect.EnumType) -> Table:
    if isinstance(info, inspect.StructType):
        return _fields(info)
    return Table(("value",), tuple((f"`{member.value}`",) for member in info.cls))


def _fields(info: inspect.StructType) -> Table:
    if info.array_like:
        return Table(
            ("position", "field", "type", "unit", "range", "default"),
            tuple((str(n), *_field(field)) for n, field in enumerate(info.fields)),
            key=2,
        )
    return Table(
        ("field", "type", "unit", "range", "default"), tuple(_field(f) for f in info.fields)
    )


def _field(field: inspect.Field) -> tuple[str, str, str, str, str]:
    kind, unit, nullable = _bare(field.type)
    shown = _shown(kind) + (" or null" if nullable else "")
    return f"`{field.encode_name}`", shown, unit, _range(kind), _default(field)


def _bare(kind: inspect.Type) -> tuple[inspect.Type, str, bool]:
    """The type without its wrappings, its unit, and whether it may be null."""
    if isinstance(kind, inspect.Metadata):
        inner, unit, nullable = _bare(kind.type)
        return inner, str((kind.extra or {}).get("unit", unit)), nullable
    if isinstance(kind, inspect.UnionType):
        (only,) = (inner for inner in kind.types if not isinstance(inner, inspect.NoneType))
        return (*_bare(only)[:2], True)
    return kind, "", False


def _shown(kind: inspect.Type) -> str:
    match kind:
        case inspect.ListType(item_type=item):
            return f"array of {_shown(_bare(item)[0])}"
        case inspect.StructType(cls=cls) | inspect.EnumType(cls=cls):
            return f"[{cls.__name__}](#{cls.__name__.lower()})"
        case _:
            return _TYPES[type(kind)]


def _range(kind: inspect.Type) -> str:
    match kind:
        case inspect.IntType(ge=low, le=high) | inspect.FloatType(ge=low, le=high):
            return f"{_number(low)} to {_number(high)}"
        case inspect.StrType(min_length=least, max_length=most, pattern=pattern):
            controls = ", no control characters" if pattern else ""
            return f"{least or 0} to {most} characters{controls}"
        case inspect.BytesType(min_length=least, max_length=most):
            return f"{least} bytes" if least == most else f"{least or 0} to {most} bytes"
        case inspect.ListType(item_type=item, min_length=least, max_length=most):
            inner = _bare(item)[0]
            each = "" if isinstance(inner, inspect.StructType) else f", each {_range(inner)}"
            return f"{least or 0} to {most} items{each}"
        case _:
            return ""


def _number(value: float | None) -> str:
    if value == 2**53 - 1:
        return "2^53-1"
    if value == 2**40:
        return "2^40"
    if value == 2**32 - 1:
        return "2^32-1"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    if field.default_factory is list:
        return "`[]`"
    value = getattr(field.default, "value", field.default)
    # By identity: 0 equals False.
    return next((n for v, n in _WORDS if v is value), f"`{value}`")


def _inner(info: inspect.StructType) -> Iterator[inspect.StructType | inspect.EnumType]:
    for field in info.fields:
        kind = _bare(field.type)[0]
        if isinstance(kind, inspect.ListType):
            kind = _bare(kind.item_type)[0]
        if isinstance(kind, inspect.StructType | inspect.EnumType):
            yield kind
        if isinstance(kind, inspect.StructType):
            yield from _inner(kind)


def _link(shape: type[Struct]) -> str:
    return (
        f"[{shape.__name__}](#{shape.__name__.lower()})" if shape.__struct_fields__ else "nothing"
    )


def _errors(root: type[ProtocolError]) -> Iterator[type[ProtocolError]]:
    yield root
    for child in root.__subclasses__():
        if child.__module__ == root.__module__:
            yield from _errors(child)


def _prose(body: str, table: Table) -> dict[tuple[str, ...], str]:
    kept: dict[tuple[str, ...], str] = {}
    for cells in _cells(body):
        # A position moves when a field is put before it; the field's own name does not.
        if table.columns[0] == "position":
            place = {row[1]: row[0] for row in table.rows}
            kept[place.get(cells[1], ""), cells[1]] = cells[-1]
        else:
            kept[tuple(cells[: table.key])] = cells[-1]
    return kept


def _cells(body: str) -> list[list[str]]:
    rows = [line for line in body.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows[2:]]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Compare docs/protocol.md with the code.")
    parser.add_argument("--write", action="store_true", help="renew the page")
    parser.add_argument(
        "--page", type=Path, default=PAGE, help="another page than docs/protocol.md"
    )
    options = parser.parse_args(arguments)
    page = options.page.read_text("utf-8")
    try:
        renewed = renew(page)
    except PageError as error:
        sys.stderr.write(f"{options.page}: {error}\n")
        return 1
    if options.write:
        options.page.write_text(renewed, "utf-8")
    elif renewed != page:
        sys.stderr.write(
            f"{options.page} is out of date: run `python scripts/protocol_tables.py --write`.\n"
        )
        return 1
    if missing := missing_prose(renewed):
        sys.stderr.write(f"{options.page}: write what these rows mean: {'; '.join(missing)}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
