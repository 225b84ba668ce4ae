"""What the message types say about themselves: examples, leaves and strategies made from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import get_args

import msgspec
from hypothesis import strategies as st
from msgspec import inspect

from remotegpu_protocol.messages import FromAgent, FromServer

#: A value of a msgpack tree, and the steps to one inside another.
Tree = None | bool | int | float | str | bytes | list["Tree"] | dict[str, "Tree"]
Path = tuple[str | int, ...]

MESSAGES: tuple[type[msgspec.Struct], ...] = tuple(
    dict.fromkeys((*get_args(FromServer), *get_args(FromAgent)))
)


@dataclass(frozen=True)
class Leaf:
    """A single value inside of a message."""

    message: type[msgspec.Struct]
    path: Path
    type: inspect.Type

    def __str__(self) -> str:
        return ".".join((str(tag(self.message)), *map(str, self.path)))


def struct_info(message: type[msgspec.Struct]) -> inspect.StructType:
    info = inspect.type_info(message)
    assert isinstance(info, inspect.StructType)
    return info


def tag(message: type[msgspec.Struct]) -> str:
    found = struct_info(message).tag
    assert isinstance(found, str)
    return found


def bare(kind: inspect.Type) -> inspect.Type:
    """The type itself: without its unit, and without null where it may be null."""
    if isinstance(kind, inspect.Metadata):
        return bare(kind.type)
    if isinstance(kind, inspect.UnionType):
        (only,) = (bare(t) for t in kind.types if not isinstance(t, inspect.NoneType))
        return only
    return kind


def full(kind: inspect.Type) -> Tree:
    """A valid value with every field set and one item in every list."""
    match bare(kind):
        case inspect.StructType() as struct if struct.array_like:
            return [full(field.type) for field in struct.fields]
        case inspect.StructType() as struct:
            fields: dict[str, Tree] = {f.encode_name: full(f.type) for f in struct.fields}
            if struct.tag_field is not None:
                fields[struct.tag_field] = struct.tag
            return fields
        case inspect.ListType(item_type=item):
            return [full(item)]
        case inspect.EnumType(cls=members):
            first: str = next(iter(members)).value
            return first
        case inspect.StrType(min_length=least):
            return "a" * (least or 0)
        case inspect.BytesType(min_length=least):
            return bytes(least or 0)
        case inspect.BoolType():
            return True
        case inspect.IntType(ge=least):
            return least or 0
        case inspect.FloatType(ge=least):
            return least or 0.0
        case other:
            raise AssertionError(f"No example for {other}.")


def leaves(message: type[msgspec.Struct]) -> Iterator[Leaf]:
    for path, kind in _walk(struct_info(message), ()):
        yield Leaf(message, path, kind)


def _walk(kind: inspect.Type, path: Path) -> Iterator[tuple[Path, inspect.Type]]:
    match bare(kind):
        case inspect.StructType() as struct:
            for position, field in enumerate(struct.fields):
                step = position if struct.array_like else field.encode_name
                yield from _walk(field.type, (*path, step))
        case inspect.ListType(item_type=item) as several:
            yield path, several
            yield from _walk(item, (*path, 0))
        case single:
            yield path, single


def with_leaf(leaf: Leaf, value: Tree) -> Tree:
    """The full example of the leaf's message with another value in the leaf's place."""
    tree = full(struct_info(leaf.message))
    target: Tree = tree
    for step in leaf.path[:-1]:
        target = _at(target, step)
    last = leaf.path[-1]
    if isinstance(target, list) and isinstance(last, int):
        target[last] = value
    else:
        assert isinstance(target, dict)
        assert isinstance(last, str)
        target[last] = value
    return tree


def _at(tree: Tree, step: str | int) -> Tree:
    if isinstance(tree, list) and isinstance(step, int):
        return tree[step]
    assert isinstance(tree, dict)
    assert isinstance(step, str)
    return tree[step]


def trees(kind: inspect.Type) -> st.SearchStrategy[Tree]:
    """Valid values of a type, short lists and texts so that many fit into a second."""
    match kind:
        case inspect.Metadata(type=inner):
            return trees(inner)
        case inspect.UnionType(types=types):
            return st.one_of([trees(inner) for inner in types])
        case inspect.NoneType():
            return st.none()
        case inspect.StructType() as struct if struct.array_like:
            return st.tuples(*(trees(field.type) for field in struct.fields)).map(list)
        case inspect.StructType() as struct:
            fields = {field.encode_name: trees(field.type) for field in struct.fields}
            if struct.tag_field is not None:
                fields[struct.tag_field] = st.just(struct.tag)
            return st.fixed_dictionaries(fields).map(dict)
        case inspect.ListType(item_type=item, min_length=least):
            return st.lists(trees(item), min_size=least or 0, max_size=2)
        case inspect.EnumType(cls=members):
            return st.sampled_from([member.value for member in members])
        case inspect.StrType(min_length=least, pattern=pattern):
            unseen = ("Cc", "Cf", "Zl", "Zp") if pattern else ()
            characters = st.characters(exclude_categories=["Cs", *unseen])
            return st.text(characters, min_size=least or 0, max_size=20)
        case inspect.BytesType(min_length=least, max_length=most):
            return st.binary(min_size=least or 0, max_size=min(most or 256, 256))
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=low, le=high):
            return st.integers(min_value=low, max_value=high)
        case inspect.FloatType(ge=low, le=high):
            return st.floats(min_value=low, max_value=high)
        case other:
            raise AssertionError(f"No strategy for {other}.")
