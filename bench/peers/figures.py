"""Medians, ratios run by run, and the table that shows them. Pure functions, no input or output."""

from dataclasses import dataclass
from statistics import median

OURS = "tyndall"


@dataclass(frozen=True)
class Unit:
    """How a row is read."""

    name: str
    #: Whether a larger figure is the better one.
    more_is_better: bool


TOKENS_PER_S = Unit("tok/s", True)
MILLISECONDS = Unit("ms", False)
MEGABYTES = Unit("MB", False)
PERCENT = Unit("%", True)
REQUESTS_PER_S = Unit("req/s", True)


def number(value: float) -> str:
    """Three significant digits, or the whole number where there are more."""
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def spread(values: list[float]) -> str:
    """`median (minimum … maximum)`; one value stands alone."""
    if not values:
        return "-"
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))} … {number(max(values))})"


def ratios(ours: list[float], theirs: list[float], unit: Unit) -> list[float]:
    """How many times better ours is, for each round that both have; lists are in the order of rounds."""
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=False) if a > 0 and b > 0]
    return [a / b if unit.more_is_better else b / a for a, b in pairs]


class Results:
    """The figures of all rounds by row and target."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {}
        self.units: dict[str, Unit] = {}

    def add(self, row: str, target: str, value: float, unit: Unit) -> None:
        """One more round."""
        self.units[row] = unit
        self.values.setdefault(row, {}).setdefault(target, []).append(value)

    def targets(self) -> list[str]:
        """All that were measured, ours first, the others in the order in which they came."""
        seen = dict.fromkeys(target for row in self.values.values() for target in row)
        return sorted(seen, key=lambda target: target != OURS)

    def ratio(self, row: str, target: str) -> list[float]:
        """Ours over the target's, run by run."""
        of_row = self.values.get(row, {})
        return ratios(of_row.get(OURS, []), of_row.get(target, []), self.units[row])

    def as_json(self, order: list[str]) -> dict:
        """Rows by name: unit, values of each target by round, ratios run by run."""
        return {
            row: {
                "unit": self.units[row].name,
                "more_is_better": self.units[row].more_is_better,
                "values": self.values[row],
                "ratios": {target: self.ratio(row, target) for target in self.values[row] if target != OURS},
            }
            for row in order
            if row in self.values
        }

    def table(self, order: list[str]) -> str:
        """A Markdown table: a line for each row, a column for each target; the ratio is ours to the target's."""
        targets = self.targets()
        lines = [["", *targets]]
        for row in order:
            if row not in self.values:
                continue
            cells = [f"{row}, {self.units[row].name}"]
            for target in targets:
                text = spread(self.values[row].get(target, []))
                ratio = self.ratio(row, target) if target != OURS else []
                cells.append(f"{text}: {number(median(ratio))}x ({spread_only(ratio)})" if ratio else text)
            lines.append(cells)
        return markdown(lines)


def spread_only(values: list[float]) -> str:
    """`minimum … maximum`."""
    return f"{number(min(values))} … {number(max(values))}"


def markdown(lines: list[list[str]]) -> str:
    """Lines of cells as a table whose columns are aligned."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    rule = ["-" * width for width in widths]
    drawn = [lines[0], rule, *lines[1:]]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in drawn
    )
