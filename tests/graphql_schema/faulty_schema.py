"""A schema with everything that ours has not: unions, interfaces, arguments, and resolvers that fail.

Its events say themselves which of their fields fail, and how.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Annotated, Any, Final, Union, cast

import strawberry
from hypothesis import strategies as st
from strawberry.schema.config import StrawberryConfig

from remotegpu_core.errors import NotFound
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import subscription
from remotegpu_graphql.permissions import Access
from remotegpu_graphql.sharing import shareable


@dataclass
class Data:
    """What an object of an event is made of, and its faulty fields."""

    number: int
    text: str
    faults: dict[str, str] = field(default_factory=dict)
    below: list["Data"] = field(default_factory=list)
    is_card: bool = True

    def give(self, name: str, value: Any) -> Any:
        match self.faults.get(name):
            case "raises":
                raise ValueError(f"{name} is broken")
            case "refuses":
                raise NotFound(f"There is no {name}.", field=name)
            case "null":
                return None
            case "nonsense":
                return {"not": "of any type"}
            case "holes":
                return [None]
            case _:
                return value


@strawberry.enum
class Unit(Enum):
    CELSIUS = "C"
    FAHRENHEIT = "F"


@strawberry.input
class Window:
    seconds: int = 60
    unit: Unit | None = None


@shareable
@strawberry.interface
class Device:
    data: strawberry.Private[Data]

    @strawberry.field
    def name(self) -> str:
        return cast("str", self.data.give("name", self.data.text))

    @strawberry.field
    def reading(
        self, unit: Unit = Unit.CELSIUS, scale: float | None = 1.5, window: Window | None = None
    ) -> str | None:
        return cast("str", self.data.give("reading", f"{unit} {scale} {window}"))

    @strawberry.field
    async def part(self) -> Annotated["Device", strawberry.lazy(__name__)] | None:
        await asyncio.sleep(0)
        return cast("Device", self.data.give("part", _device(self.data)))


@shareable
@strawberry.type
class Card(Device):
    @strawberry.field
    async def memory(self, at: int) -> int:
        await asyncio.sleep(0)
        return cast("int", self.data.give("memory", at))


@shareable
@strawberry.type
class Host(Device):
    @strawberry.field
    def cards(self, uuids: list[strawberry.ID] | None = None) -> list[Card]:
        found = [Card(data=data) for data in self.data.below]
        return cast("list[Card]", self.data.give("cards", found if uuids is None else found[:1]))

    @strawberry.field
    async def load(self) -> float:
        return cast("float", self.data.give("load", self.data.number / 4))


Part = Annotated[Union[Card, Host], strawberry.union("Part")]  # noqa: UP007 - how unions get names


@shareable
@strawberry.type
class Tick:
    data: strawberry.Private[Data]

    @strawberry.field
    def number(self) -> int:
        return cast("int", self.data.give("number", self.data.number))

    @strawberry.field
    def device(self) -> Device:
        return cast("Device", self.data.give("device", _device(self.data)))

    @strawberry.field
    def parts(self, units: list[Unit] | None = None) -> list[Part]:
        parts = [Card(data=data) if data.is_card else Host(data=data) for data in self.data.below]
        return cast("list[Part]", self.data.give("parts", parts if units is None else parts[:1]))

    @strawberry.field
    async def holes(self) -> list[Card | None] | None:
        await asyncio.sleep(0)
        cards = [Card(data=data) if data.is_card else None for data in self.data.below]
        return cast("list[Card | None]", self.data.give("holes", cards))

    @strawberry.field
    def inner(self) -> Annotated["Tick", strawberry.lazy(__name__)] | None:
        below = self.data.below
        return cast("Tick", self.data.give("inner", Tick(data=below[0]) if below else None))

    @strawberry.field
    async def sure(self) -> Annotated["Tick", strawberry.lazy(__name__)]:
        return cast("Tick", self.data.give("sure", self))


def _device(data: Data) -> Device | None:
    if not data.below:
        return Card(data=data)
    return Card(data=data.below[0]) if data.below[0].is_card else Host(data=data.below[0])


@strawberry.type
class Query:
    nothing: int


@dataclass(frozen=True, slots=True)
class Source:
    """In the place of a control plane: where events come from."""

    events: list[Any]


@strawberry.type
class Subscription:
    @subscription("Everything, in turn.", access=Access.PUBLIC)
    async def tick(self, info: Info) -> AsyncIterator[Tick]:
        for event in cast("Source", info.context.plane).events:
            yield event


SCHEMA: Final = strawberry.Schema(
    query=Query, subscription=Subscription, config=StrawberryConfig(info_class=Info)
)

_faults = st.dictionaries(
    st.sampled_from(
        [
            *("name", "reading", "part", "memory", "cards", "load"),
            *("number", "device", "parts", "holes", "inner", "sure"),
        ]
    ),
    st.sampled_from(["raises", "refuses", "null", "nonsense", "holes"]),
    max_size=3,
)
_leaves = st.builds(Data, st.integers(-10, 10), st.text(max_size=3), _faults, is_card=st.booleans())
_data = st.recursive(
    _leaves,
    lambda below: st.builds(
        Data,
        st.integers(-10, 10),
        st.just("t"),
        _faults,
        st.lists(below, min_size=1, max_size=3),
        is_card=st.booleans(),
    ),
    max_leaves=6,
)


def ticks() -> st.SearchStrategy[Tick]:
    """Events, most of them with faults."""
    return st.builds(Tick, data=_data)
