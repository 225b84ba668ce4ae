"""Text that Prometheus's own parser reads back."""

from dataclasses import dataclass

import pytest
from prometheus_client.parser import text_string_to_metric_families

from remotegpu_core.exposition.family import Exposition, Field, label_set


@dataclass
class Row:
    value: int | float | None


def parsed(*rows: tuple[Row, str]) -> list[tuple[str, dict[str, str], float]]:
    exposition = Exposition([Field[Row]("some_value", "gauge", "Some value.", lambda r: r.value)])
    for row, labels in rows:
        exposition.add(row, labels)
    text = b"".join(exposition.text()).decode()
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3"),
        ('19" rack \\ left', '19" rack \\ left'),
        ("Größe ☃", "Größe ☃"),
        ("a\nb", "a b"),
        ("gpu\u202e-01", "gpu -01"),
        ("\x1b[31mred", "[31mred"),
        ("lone \udcff surrogate", "lone \ufffd surrogate"),
        ("x" * 300, "x" * 255),
    ],
)
def test_label_values_are_cleaned_and_escaped(raw: str, shown: str) -> None:
    assert parsed((Row(1), label_set({"name": raw}))) == [("some_value", {"name": shown}, 1.0)]


def test_an_empty_label_is_left_out() -> None:
    assert label_set({"a": "1", "b": "", "c": "\x00"}) == '{a="1"}'


@pytest.mark.parametrize("value", [0, 0.0, 1.5, 1e-9, 2**53 - 1, -3.25, 123456789.123])
def test_values_come_back_exact(value: float) -> None:
    assert parsed((Row(value), "{}")) == [("some_value", {}, value)]


def test_what_was_not_measured_is_not_there() -> None:
    assert parsed((Row(None), label_set({"a": "1"})), (Row(0), label_set({"a": "2"}))) == [
        ("some_value", {"a": "2"}, 0.0)
    ]
    assert parsed((Row(None), "{}")) == []
