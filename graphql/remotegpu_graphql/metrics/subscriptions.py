import asyncio
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Annotated, Any

import strawberry

from remotegpu_core.actor import Actor
from remotegpu_core.control_plane import ControlPlane
from remotegpu_core.errors import InvalidInput, NotFound
from remotegpu_core.services.access import visible_ids
from remotegpu_graphql.bounds import items
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import subscription
from remotegpu_graphql.ids import decode_id
from remotegpu_graphql.metrics.types import MachineMetrics
from remotegpu_graphql.sharing import Stream, share
from remotegpu_protocol.limits import MIN_SAMPLE_INTERVAL

#: Machines that one subscription may follow.
MAX_MACHINES = 100
#: Seconds; a viewer that wants less can query.
MAX_INTERVAL = 3600.0


async def plan_metrics(
    plane: ControlPlane, actor: Actor, arguments: Mapping[str, Any]
) -> list[Stream]:
    """One stream a machine; every one of them must be visible to the viewer."""
    machine_ids = await _visible(actor, arguments["machineIds"])
    interval = _check_interval(arguments.get("intervalSeconds"))
    return [_stream(plane, machine_id, interval) for machine_id in machine_ids]


def _stream(plane: ControlPlane, machine_id: uuid.UUID, interval: float | None) -> Stream:
    async def events() -> AsyncIterator[MachineMetrics]:
        async for sample in plane.samples.samples(machine_id, interval=interval):
            yield MachineMetrics.of(machine_id, sample)

    return Stream(key=("machineMetrics", machine_id, interval), events=events)


async def _visible(actor: Actor, ids: list[str]) -> list[uuid.UUID]:
    wanted = list(dict.fromkeys(decode_id(i, "Machine", field="machineIds") for i in ids))
    seen = await visible_ids(actor, wanted)
    if len(seen) < len(wanted):
        raise NotFound("There is no such machine.", field="machineIds")
    return wanted


def _check_interval(interval: float | None) -> float | None:
    if interval is None:
        return None
    if not MIN_SAMPLE_INTERVAL <= interval <= MAX_INTERVAL:
        raise InvalidInput(
            f"intervalSeconds is {MIN_SAMPLE_INTERVAL} to {MAX_INTERVAL:g}, got {interval}.",
            field="intervalSeconds",
        )
    return interval


share("machineMetrics", plan_metrics, routing=frozenset({"machineIds"}))


@strawberry.type
class MetricsSubscription:
    @subscription(
        "Samples of machines as they are taken: for each machine its latest at once, then every "
        "new one. A machine without a sample yet begins with its first. Ends with NOT_FOUND when "
        "you may not see one of them any more."
    )
    async def machine_metrics(
        self,
        info: Info,
        machine_ids: Annotated[
            list[strawberry.ID],
            strawberry.argument(
                description="The machines to follow.", metadata=items(1, MAX_MACHINES)
            ),
        ],
        interval_seconds: Annotated[
            float | None,
            strawberry.argument(
                description="At most one sample a machine in this many seconds, 0.1 to 3600. "
                "Hosts sample faster while somebody asks for it: up to 10 times a second. "
                "Every sample, about one a second, when left out."
            ),
        ] = None,
    ) -> AsyncIterator[MachineMetrics]:
        arguments = {"machineIds": machine_ids, "intervalSeconds": interval_seconds}
        context = info.context
        streams = await plan_metrics(context.plane, context.actor, arguments)
        async for event in merge(streams):
            yield event


async def merge(streams: list[Stream]) -> AsyncIterator[Any]:
    """Events of several streams as they come, the newest of each where the reader is slower."""
    newest: dict[int, Any] = {}
    arrived = asyncio.Event()

    async def pump(place: int, stream: Stream) -> None:
        try:
            async for event in stream.events():
                newest[place] = event
                arrived.set()
        finally:
            # A failed stream is noticed by whoever reads.
            arrived.set()

    # No task group: a generator may be closed from another task than the one that began it.
    tasks = [asyncio.create_task(pump(place, stream)) for place, stream in enumerate(streams)]
    try:
        while True:
            await arrived.wait()
            arrived.clear()
            for task in tasks:
                if task.done():
                    task.result()
            while newest:
                yield newest.pop(next(iter(newest)))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
