from tortoise.indexes import Index
from tortoise.migrations import operations as ops

from remotegpu_core.database import migration


class Migration(migration.Migration):
    """A list of all GPUs by their model."""

    dependencies = [("remotegpu", "0003_claims")]

    initial = False

    operations = [ops.AddIndex(model_name="Gpu", index=Index(fields=["model", "id"]))]
