"""Results as text: the same Markdown for the terminal and for the file."""

from collections.abc import Iterator, Sequence
from typing import Final

from bench.catalogue import ALL, PRODUCT, TARGETS
from bench.results import Benchmark, Quantity, Results

_NOTHING: Final = "-"


def report(results: Results) -> str:
    parts = [text for benchmark in ALL if (text := table(results, benchmark))]
    parts.append(targets(results))
    if results.failures:
        parts.append("## Not measured\n\n" + "\n".join(f"- {line}" for line in results.failures))
    return "\n\n".join(parts) + "\n"


def table(results: Results, benchmark: Benchmark) -> str | None:
    """Each server's medians with their least and greatest, and RemoteGPU's ratio to it."""
    servers = list(results.servers(benchmark))
    if not servers:
        return None
    head = ["server"]
    for quantity in benchmark.quantities:
        head += [quantity.name, "least to greatest", "RemoteGPU's"][: _columns(quantity)]
    rows = [[server, *_cells(results, benchmark, server)] for server in servers]
    return f"## {benchmark.name}\n\n{benchmark.about}\n\n{_aligned([head, *rows])}"


def targets(results: Results) -> str:
    """Which of the ratios to reach hold, judged by processor time where that is known."""
    rows = [["benchmark", "target", "measured", "by CPU time", "holds"]]
    for target in TARGETS:
        value, by_cost = target.measured(results), target.by_cost(results)
        judged = value if by_cost is None else by_cost
        verdict = "not measured" if judged is None else "yes" if target.holds(judged) else "NO"
        rows.append([target.benchmark.name, target.text, _ratio(value), _ratio(by_cost), verdict])
    return "## Ratios to reach\n\n" + _aligned(rows)


def _ratio(value: float | None) -> str:
    return _NOTHING if value is None else f"{value:.3g}"


def _cells(results: Results, benchmark: Benchmark, server: str) -> Iterator[str]:
    for quantity in benchmark.quantities:
        median = results.median(benchmark, server, quantity)
        if median is None:
            yield from [_NOTHING] * _columns(quantity)
            continue
        least, greatest = results.spread(benchmark, server, quantity)
        yield _number(median, quantity)
        if not quantity.is_compared:
            continue
        yield f"{_number(least, quantity)} to {_number(greatest, quantity)}"
        ratio = results.ratio(benchmark, quantity, PRODUCT, server)
        yield _NOTHING if ratio is None or server == PRODUCT else f"{ratio:.2f}x"


def _columns(quantity: Quantity) -> int:
    return 3 if quantity.is_compared else 1


def _number(value: float, quantity: Quantity) -> str:
    return f"{value:,.{quantity.digits}f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = [_line(row, widths) for row in rows]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [
        cell.ljust(width) if place == 0 else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return f"| {' | '.join(cells)} |"
