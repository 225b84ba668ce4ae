"""Strawberry as it comes: its own ASGI application, one execution a subscriber and event."""

import asyncio
from collections.abc import AsyncIterator

import strawberry
from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute
from strawberry.asgi import GraphQL
from strawberry.schema.config import StrawberryConfig
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

from bench.peers.graph import SCALARS, MachineConnection, MachineMetrics, make_fleet
from bench.peers.serve import serve
from bench.peers.source import Listener, healthz, lifespan_of
from remotegpu_core.bus.samples import Sample

listeners: set[Listener] = set()
fleet = make_fleet()


@strawberry.type
class Query:
    @strawberry.field
    def machines(self, first: int) -> MachineConnection:
        return fleet


@strawberry.type
class Subscription:
    @strawberry.subscription
    async def machine_metrics(
        self, machine_ids: list[strawberry.ID]
    ) -> AsyncIterator[MachineMetrics]:
        waiting: asyncio.Queue[Sample] = asyncio.Queue()
        listeners.add(waiting.put_nowait)
        try:
            while True:
                yield MachineMetrics.of(machine_ids[0], await waiting.get())
        finally:
            listeners.discard(waiting.put_nowait)


def main() -> None:
    schema = strawberry.Schema(
        query=Query, subscription=Subscription, config=StrawberryConfig(scalar_map=SCALARS)
    )
    graphql: GraphQL[None, None] = GraphQL(
        schema, subscription_protocols=[GRAPHQL_TRANSPORT_WS_PROTOCOL]
    )
    serve(
        Starlette(
            lifespan=lifespan_of(listeners),
            routes=[healthz, Route("/graphql", graphql), WebSocketRoute("/graphql", graphql)],
        )
    )


if __name__ == "__main__":
    main()
