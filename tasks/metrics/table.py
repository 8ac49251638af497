"""COCO's numbers as text for a terminal: the twelve lines that COCO's own code prints, then AP by class.

Where numbers have intervals, the lines leave out "Average Precision", so that they fit into 80 characters.
"""

import math
from collections.abc import Mapping

from tasks.metrics.bootstrap import Interval, bracket


def coco_table(
    numbers: dict[str, float],
    intervals: Mapping[str, Interval] | None = None,
    *,
    digits: int = 3,
    width: int = 80,
) -> str:
    """The numbers of `CocoMetric.compute` as lines of at most `width` characters where names allow, each with its
    interval where there is one.

    nan prints as -1, as COCO's own code has it. Classes fill as many columns as fit, downwards.
    """
    limits = [int(name[3:]) for name in numbers if name.startswith("AR_") and name[3:].isdigit()]
    known = intervals or {}
    lines = [
        _line(name, value, limits, digits, short=bool(known)) + bracket(known.get(name), digits)
        for name, value in numbers.items()
        if "/" not in name
    ]
    by_class = {name[3:]: value for name, value in numbers.items() if name.startswith("AP/")}
    if by_class:
        longest = max(map(len, by_class))
        cells = [
            f"{name:<{longest}}  {_number(value, digits):>{digits + 3}}{bracket(known.get(f'AP/{name}'), digits)}"
            for name, value in by_class.items()
        ]
        widest = max(map(len, cells))
        cells = [f"{cell:<{widest}}" for cell in cells] if known else cells
        num_columns = max(1, (width - 1) // (widest + 3))
        num_rows = -(-len(cells) // num_columns)
        lines += ["", " AP by class"]
        lines += [(" " + "   ".join(cells[row::num_rows])).rstrip() for row in range(num_rows)]
    return "\n".join(lines)


def _line(name: str, value: float, limits: list[int], digits: int, *, short: bool) -> str:
    """One line in COCO's wording; `limits` are the metric's three limits of detections, ascending."""
    long, title = (
        ("Average Precision  ", "(AP)") if name.startswith("AP") else ("Average Recall     ", "(AR)")
    )
    title = title if short else long + title
    iou = {"AP50": "0.50", "AP75": "0.75"}.get(name, "0.50:0.95")
    kind = name[3:]  # of AP_small, AR_10, …
    area = kind if kind in ("small", "medium", "large") else "all"
    limit = int(kind) if name.startswith("AR_") and kind.isdigit() else limits[-1]
    return f" {title} @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ] = {_number(value, digits)}"


def _number(value: float, digits: int) -> str:
    return f"{-1.0 if math.isnan(value) else value:.{digits}f}"
