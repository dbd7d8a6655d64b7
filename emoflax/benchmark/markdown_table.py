"""A table of a report: written as Markdown here, as HTML by emoflax/reporting/html/tables.html."""

import dataclasses
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells are finished text. `notes`: sentences below it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        """The table alone, without its title and notes."""
        rows = [f"| {' | '.join(cells)} |" for cells in (self.head, *self.rows)]
        return "\n".join([rows[0], "|---" * len(self.head) + "|", *rows[1:]])


def section(table: Table) -> str:
    """Title, table and notes, in Markdown."""
    return "\n\n".join([f"## {table.title}", table.markdown(), *table.notes])


def number(value: float | None, digits: int = 3) -> str:
    """At most so many significant digits below a thousand, without an exponent; a dash for None."""
    if value is None:
        return "–"
    whole = f"{value:.{digits}g}" if abs(value) < 10**digits else f"{value:,.0f}"
    return f"{value:.6f}".rstrip("0") if "e" in whole else whole


def percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.3g} %"
