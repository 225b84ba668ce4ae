"""Relay's shapes: nodes and connections."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Generic, Self, TypeVar

import strawberry

from remotegpu_core.paging import Order, Page, PageRequest, cursor_of
from remotegpu_graphql.bounds import characters

NodeType = TypeVar("NodeType")
Row = TypeVar("Row")

#: Characters of the longest cursor: it holds a value of up to 255 characters of a column.
MAX_CURSOR: Final = 1500

First = Annotated[
    int | None,
    strawberry.argument(
        description="At most this many from the start: 0 to 100, 20 when left out."
    ),
]
After = Annotated[
    str | None,
    strawberry.argument(
        description="Only what follows this cursor.", metadata=characters(0, MAX_CURSOR)
    ),
]
Last = Annotated[
    int | None, strawberry.argument(description="At most this many from the end: 0 to 100.")
]
Before = Annotated[
    str | None,
    strawberry.argument(
        description="Only what precedes this cursor.", metadata=characters(0, MAX_CURSOR)
    ),
]


@strawberry.interface(description="Anything that has an id of its own.")
class Node:
    id: strawberry.ID = strawberry.field(
        description="Opaque; unique over all types, and the same for as long as the object exists."
    )

    @classmethod
    def reference(cls, id: strawberry.ID) -> Self:
        """An object of which a shared execution may ask the id, and nothing else."""
        reference = cls.__new__(cls)
        reference.id = id
        return reference


@strawberry.type(description="Where a page stands in its list.")
class PageInfo:
    has_next_page: bool = strawberry.field(description="Whether more follows.")
    has_previous_page: bool = strawberry.field(description="Whether something precedes.")
    start_cursor: str | None = strawberry.field(description="Cursor of the page's first element.")
    end_cursor: str | None = strawberry.field(description="Cursor of the page's last element.")


@strawberry.type(description="An element of a list with its place in it.")
class Edge(Generic[NodeType]):
    cursor: str = strawberry.field(description="For `after` and `before`.")
    node: NodeType = strawberry.field(description="The element.")


@strawberry.type(description="A page of a list.")
class Connection(Generic[NodeType]):
    edges: list[Edge[NodeType]] = strawberry.field(description="The page's elements.")
    page_info: PageInfo = strawberry.field(description="Where the page stands.")
    count: strawberry.Private[Callable[[], Awaitable[int]]]

    @strawberry.field(description="How many elements the whole list has, all pages together.")
    async def total_count(self) -> int:
        return await self.count()


def edge(row: "Row", order: Order, convert: Callable[["Row"], NodeType]) -> Edge[NodeType]:
    """Of what was made just now, in the list that has this order."""
    return Edge(cursor=cursor_of(order, row), node=convert(row))  # type: ignore[arg-type]  # rows are models


def made_edge(what: str, of: str) -> Any:
    """A payload's field of what a mutation made: Relay's @prependEdge and @appendEdge take it."""
    return strawberry.field(
        default=None,
        description=f"{what} with its place in {of}, in the order that it has by itself.",
    )


def page_request(
    first: int | None, after: str | None, last: int | None, before: str | None
) -> PageRequest:
    return PageRequest(first=first, after=after, last=last, before=before)


def connection(page: "Page[Row]", convert: Callable[[Row], NodeType]) -> Connection[NodeType]:  # type: ignore[type-var]  # rows are models
    """A page of rows as a connection of what `convert` makes of them."""
    return Connection(
        edges=[
            Edge(cursor=cursor, node=convert(row))
            for cursor, row in zip(page.cursors, page.rows, strict=True)
        ],
        page_info=PageInfo(
            has_next_page=page.has_next,
            has_previous_page=page.has_previous,
            start_cursor=page.cursors[0] if page.cursors else None,
            end_cursor=page.cursors[-1] if page.cursors else None,
        ),
        count=page.count,
    )
