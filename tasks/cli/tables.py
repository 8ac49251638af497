"""Tables of the command line: aligned columns, as wide as they are; on a terminal the last one is broken into lines."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.cli.output import terminal_width

GAP = "  "
NARROWEST = 16
"""Of a last column that is broken into lines."""


@dataclass(frozen=True)
class Column:
    """One column; a title may have several lines."""

    title: str
    right: bool = False
    """Whether cells end below each other, as numbers do."""


def table(columns: Sequence[Column | str], rows: Sequence[Sequence[str]]) -> str:
    """A line for each row below the titles, whose last lines stand side by side."""
    columns = [Column(column) if isinstance(column, str) else column for column in columns]
    titles = [column.title.split("\n") for column in columns]
    depth = max(map(len, titles))
    head = [[""] * (depth - len(lines)) + lines for lines in titles]
    header = [list(line) for line in zip(*head, strict=True)]
    cells = [[*map(str, row)] for row in rows]
    widths = [max(len(line[i]) for line in [*header, *cells]) for i in range(len(columns))]
    before = sum(widths[:-1]) + len(GAP) * (len(columns) - 1)
    width = terminal_width()
    if width is not None and before + widths[-1] > width and not columns[-1].right:
        widths[-1] = max(width - before, NARROWEST)
    lines = []
    for row in [*header, *cells]:
        last = (
            textwrap.wrap(row[-1], widths[-1], break_on_hyphens=False)
            if len(row[-1]) > widths[-1]
            else [row[-1]]
        )
        for number, part in enumerate(last):
            shown = [*row[:-1], part] if number == 0 else [*[""] * (len(row) - 1), part]
            aligned = [
                cell.rjust(width) if column.right else cell.ljust(width)
                for cell, width, column in zip(shown, widths, columns, strict=True)
            ]
            lines.append(GAP.join(aligned).rstrip())
    return "\n".join(lines)
