"""The fleet that queries ask about: 100 machines of eight GPUs each, with their latest samples."""

import json
from pathlib import Path
from typing import Final

from bench.event import make_metrics
from remotegpu_protocol.metrics import GpuMetrics, Metrics

MACHINES: Final = 100

#: Ten fields of each GPU: about 185 kB of answer.
DOCUMENT: Final = """query Fleet {
  machines(first: 100) {
    edges {
      node {
        id
        name
        latestMetrics {
          sampledAt
          gpus {
            index uuid utilization memoryUsed memoryTotal
            temperature power powerLimit smClock memoryClock
          }
        }
      }
    }
  }
}"""

_FIELDS: Final = (
    *("index", "uuid", "utilization", "memory_used", "memory_total"),
    *("temperature", "power", "power_limit", "sm_clock", "memory_clock"),
)


def name_of(number: int) -> str:
    return f"bench-{number:05d}"


def samples() -> list[Metrics]:
    return [make_metrics(seed) for seed in range(MACHINES)]


def as_nodes() -> list[dict[str, object]]:
    """The fleet in the graph's names; times in milliseconds since the Unix epoch."""
    return [
        {
            "id": name_of(number),
            "name": name_of(number),
            "latestMetrics": {
                "sampledAt": metrics.sampled_at,
                "gpus": [_gpu(gpu) for gpu in metrics.gpus],
            },
        }
        for number, metrics in enumerate(samples())
    ]


def write_fleet(path: Path) -> Path:
    """The fleet as JSON, for peers on Node."""
    path.write_text(json.dumps(as_nodes()))
    return path


def camel(name: str) -> str:
    """memory_used to memoryUsed."""
    first, *others = name.split("_")
    return first + "".join(part.title() for part in others)


def _gpu(gpu: GpuMetrics) -> dict[str, object]:
    return {camel(name): getattr(gpu, name) for name in _FIELDS}
