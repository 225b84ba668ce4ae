from typing import Annotated

import strawberry

from remotegpu_core.services import machines
from remotegpu_core.services.gpus import GpuFilter, GpuOrderField, list_gpus
from remotegpu_core.services.machines import MachineFilter, MachineOrderField
from remotegpu_graphql.context import Info
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.machines.enums import OrderDirection
from remotegpu_graphql.machines.inputs import (
    GpuFilterInput,
    GpuOrder,
    MachineFilterInput,
    MachineOrder,
)
from remotegpu_graphql.machines.types import Gpu, Machine
from remotegpu_graphql.relay import (
    After,
    Before,
    Connection,
    First,
    Last,
    connection,
    page_request,
)


@strawberry.type
class MachinesQuery:
    @query("The machines that you may see.")
    async def machines(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        filter: Annotated[
            MachineFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            MachineOrder | None, strawberry.argument(description="By name when left out.")
        ] = None,
    ) -> Connection[Machine] | None:
        info.context.note_not_mine("machines", filter.mine if filter else None)
        page = await machines.list_machines(
            info.context.actor,
            page_request(first, after, last, before),
            filter.to_filter() if filter else MachineFilter(),
            order_field=order_by.field if order_by else MachineOrderField.NAME,
            descending=bool(order_by and order_by.direction is OrderDirection.DESC),
        )
        return connection(page, Machine.of)

    @query("A machine by its id; null when there is none or not for you.")
    async def machine(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")],
    ) -> Machine | None:
        parts = split_id(id)
        if parts is None or parts[0] != "Machine":
            return None
        row = await info.context.loaders.machine.load(parts[1])
        return None if row is None else Machine.of(row)

    @query("The GPUs in machines that you may see.")
    async def gpus(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        filter: Annotated[
            GpuFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            GpuOrder | None,
            strawberry.argument(description="In the order in which they were found when left out."),
        ] = None,
    ) -> Connection[Gpu] | None:
        page = await list_gpus(
            info.context.actor,
            page_request(first, after, last, before),
            filter.to_filter() if filter else GpuFilter(),
            order_field=order_by.field if order_by else GpuOrderField.FOUND_AT,
            descending=bool(order_by and order_by.direction is OrderDirection.DESC),
        )
        return connection(page, Gpu.of)

    @query("A GPU by its id; null when there is none or not for you.")
    async def gpu(
        self,
        info: Info,
        id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")],
    ) -> Gpu | None:
        parts = split_id(id)
        if parts is None or parts[0] != "Gpu":
            return None
        row = await info.context.loaders.gpu.load(parts[1])
        return None if row is None else Gpu.of(row)
