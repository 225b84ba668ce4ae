"""Machines by their labels: one question, however many labels are asked for."""

import operator
from collections.abc import Collection
from functools import reduce

from tortoise.expressions import Q, Subquery
from tortoise.functions import Count

from remotegpu_core.models import MachineLabel

Label = tuple[str, str]


def with_labels(labels: Collection[Label]) -> Q:
    """The filter of machines that have all of `labels`, of which there is at least one."""
    asked = set(labels)
    # A machine has a key once, so that it has all of them when it has so many.
    any_of_them = reduce(operator.or_, (Q(key=key, value=value) for key, value in sorted(asked)))
    found = MachineLabel.filter(any_of_them).annotate(found=Count("id"))
    return Q(
        id__in=Subquery(found.filter(found=len(asked)).group_by("machine_id").values("machine_id"))
    )


def with_labels_sql(labels: Collection[Label], machine: str) -> tuple[str, list[object]]:
    """The same as a condition of SQL on a machine's id, and the values of its question marks."""
    asked = sorted(set(labels))
    pairs = ", ".join("(?, ?)" for _ in asked)
    condition = (
        f"{machine} IN (SELECT machine_id FROM machine_label WHERE (key, value) IN (VALUES {pairs}) "  # noqa: S608 - question marks and a name of ours
        f"GROUP BY machine_id HAVING COUNT(*) = {len(asked)})"
    )
    return condition, [text for label in asked for text in label]
