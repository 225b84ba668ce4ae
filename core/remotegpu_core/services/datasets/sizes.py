"""How large datasets are: listed where that is possible, else null with the reason."""

import uuid

from remotegpu_core.actor import Actor
from remotegpu_core.clock import now_ms
from remotegpu_core.errors import NotFound
from remotegpu_core.models import Dataset
from remotegpu_core.s3.measure import Measured, measure
from remotegpu_core.services import audit
from remotegpu_core.services.datasets.access import require_managed, visible_dataset
from remotegpu_core.settings import Settings
from remotegpu_protocol.datasets import SourceKind


async def measure_dataset(actor: Actor, settings: Settings, dataset_id: uuid.UUID) -> Dataset:
    """Look again how large a dataset is. Its owner and admins.

    Raises:
        NotFound, Forbidden: it is not there for the caller, or not theirs.
    """
    dataset = await visible_dataset(actor, dataset_id)
    require_managed(actor, dataset)
    dataset = await measured(settings, dataset)
    await audit.record(
        actor,
        "measureDataset",
        target=("Dataset", dataset.id),
        details={"name": dataset.name, "measured": audit.yes_or_no(dataset.size is not None)},
    )
    return dataset


async def measured(settings: Settings, dataset: Dataset) -> Dataset:
    """The dataset with the size that it has now; outside every transaction."""
    found = Measured(reason="Only what is in S3 is measured.")
    if dataset.kind is SourceKind.S3:
        found = await measure(settings, dataset.location, dataset.endpoint)
    changed = await Dataset.filter(id=dataset.id).update(
        size=found.size,
        object_count=found.object_count,
        size_reason=found.reason,
        measured_at=now_ms() if found.size is not None else None,
    )
    if not changed:
        raise NotFound("It was removed meanwhile.", field="id")
    return await Dataset.get(id=dataset.id)
