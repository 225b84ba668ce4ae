"""The three kinds of root field, each with its permission."""

from typing import Any

import strawberry

from remotegpu_graphql.permissions import Access, Reads, Watches, Writes


def query(description: str, *, access: Access = Access.USER) -> Any:
    return strawberry.field(description=description, extensions=[Reads(access)])


def mutation(description: str, *, access: Access = Access.USER) -> Any:
    return strawberry.mutation(description=description, extensions=[Writes(access)])


def subscription(description: str, *, access: Access = Access.USER) -> Any:
    return strawberry.subscription(description=description, extensions=[Watches(access)])
