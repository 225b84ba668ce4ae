from typing import Annotated

import strawberry

from remotegpu_core.services.datasets.reading import (
    DatasetFilter,
    DatasetOrderField,
    list_datasets,
)
from remotegpu_graphql.context import Info
from remotegpu_graphql.datasets.inputs import DatasetFilterInput, DatasetOrder
from remotegpu_graphql.datasets.types import Dataset
from remotegpu_graphql.fields import query
from remotegpu_graphql.ids import split_id
from remotegpu_graphql.machines.enums import OrderDirection
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
class DatasetsQuery:
    @query(
        "Datasets: all for admins, for others their own, those granted to them or shared with a "
        "workspace of theirs, and the public ones."
    )
    async def datasets(
        self,
        info: Info,
        first: First = None,
        after: After = None,
        last: Last = None,
        before: Before = None,
        filter: Annotated[
            DatasetFilterInput | None, strawberry.argument(description="Which of them.")
        ] = None,
        order_by: Annotated[
            DatasetOrder | None, strawberry.argument(description="By name when left out.")
        ] = None,
    ) -> Connection[Dataset] | None:
        info.context.note_not_mine("datasets", filter.mine if filter else None)
        page = await list_datasets(
            info.context.actor,
            page_request(first, after, last, before),
            filter.to_filter() if filter else DatasetFilter(),
            order_field=order_by.field if order_by else DatasetOrderField.NAME,
            descending=order_by is not None and order_by.direction is OrderDirection.DESC,
        )
        return connection(page, Dataset.of)

    @query("A dataset by its id; null when there is none or not for you.")
    async def dataset(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Which.")]
    ) -> Dataset | None:
        parts = split_id(id)
        if parts is None or parts[0] != "Dataset":
            return None
        row = await info.context.loaders.dataset.load(parts[1])
        return None if row is None else Dataset.of(row)
