"""One style for every plot: colours that colour-blind people tell apart, and text that is legible at half size.

Colours are those of Okabe and Ito ("Color Universal Design", 2008); the page of a report has them darker or lighter,
for contrast. Lines differ in more than their colour wherever two could be mixed up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, SKY, YELLOW = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"
INK, SOFT, RULE = "#1d2126", "#5b6470", "#d5dae0"
DPI = 110
STYLE = {
    "font.size": 15,
    "axes.titlesize": 16,
    "axes.titlelocation": "left",
    "axes.labelsize": 15,
    "xtick.labelsize": 14,
    "ytick.labelsize": 14,
    "legend.fontsize": 14,
    "legend.frameon": False,
    "lines.linewidth": 2.5,
    "lines.markersize": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": SOFT,
    "axes.titlecolor": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "figure.facecolor": "white",
}
"""Of matplotlib, for a figure of `figure`."""


@contextmanager
def figure(path: Path, width: float, height: float) -> Iterator[Figure]:
    """A figure of so many inches in this style, which becomes the PNG `path`, whole or not at all."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Drawn

    style: Any = STYLE  # whose type is of the names of settings that matplotlib knows
    with mpl.rc_context(style):
        drawn = Drawn(figsize=(width, height), layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn
        with write_whole(path) as partial:
            drawn.savefig(partial, format="png", dpi=DPI)
