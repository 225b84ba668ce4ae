"""What was measured, and what it comes to."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Quantity:
    """A column: what is measured; one that is not compared only explains the others."""

    name: str
    digits: int = 1
    is_compared: bool = True


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A table: `name` and what the reader must know of it."""

    name: str
    about: str
    quantities: tuple[Quantity, ...]


@dataclass(slots=True)
class Results:
    """Values by benchmark, server and quantity, in the order of their first coming."""

    values: dict[tuple[str, str, str], list[float]] = field(
        default_factory=lambda: defaultdict(list)
    )
    #: What could not be measured, and why.
    failures: list[str] = field(default_factory=list)

    def add(self, benchmark: Benchmark, server: str, values: Iterable[float]) -> None:
        """One window's values, in the order of the benchmark's quantities."""
        for quantity, value in zip(benchmark.quantities, values, strict=True):
            self.values[benchmark.name, server, quantity.name].append(value)

    def servers(self, benchmark: Benchmark) -> Iterator[str]:
        seen = dict.fromkeys(server for name, server, _ in self.values if name == benchmark.name)
        return iter(seen)

    def median(self, benchmark: Benchmark, server: str, quantity: Quantity) -> float | None:
        found = self.values.get((benchmark.name, server, quantity.name))
        return statistics.median(found) if found else None

    def spread(self, benchmark: Benchmark, server: str, quantity: Quantity) -> tuple[float, float]:
        """Least and greatest."""
        found = self.values[benchmark.name, server, quantity.name]
        return min(found), max(found)

    def ratio(
        self, benchmark: Benchmark, quantity: Quantity, server: str, peer: str
    ) -> float | None:
        """`server`'s median over `peer`'s."""
        own = self.median(benchmark, server, quantity)
        other = self.median(benchmark, peer, quantity)
        return own / other if own is not None and other else None
