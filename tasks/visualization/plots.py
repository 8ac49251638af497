"""Plots of what a data set holds: bars of its classes, histograms of its boxes and images."""

from pathlib import Path
from typing import Any

import numpy as np

SMALL, LARGE = 32, 96
"""Sides of a box that COCO calls small below, and large above."""


MOST_CLASSES = 40
"""As many bars as can be read."""


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Bars of the classes, histograms of sides and aspects, as far as `numbers` has them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_class = numbers.get("objects_by_class") or numbers.get("images_by_class") or {}
    ranked = sorted(by_class.items(), key=lambda item: -item[1])[:MOST_CLASSES]
    figure = Figure(figsize=(14, 9), layout="constrained")
    FigureCanvasAgg(figure)
    classes, sides, boxes, images = figure.subplots(2, 2).ravel()
    classes.bar(range(len(ranked)), [count for _, count in ranked])
    classes.set_xticks(range(len(ranked)), [name for name, _ in ranked], rotation=90)
    shown = (
        f"the {MOST_CLASSES} largest of {len(by_class)} classes"
        if len(by_class) > MOST_CLASSES
        else "by class"
    )
    classes.set_title(f"{'objects' if 'objects' in numbers else 'images'}, {shown}")
    histogram(sides, numbers.get("sides"), "side of a box as the network sees it, in pixels (√area)")
    for side in (SMALL, LARGE):
        sides.axvline(side, color="0.4", linestyle="--", linewidth=1)
    histogram(boxes, numbers.get("box_aspects"), "aspect of a box, width / height")
    histogram(images, numbers.get("image_aspects"), "aspect of an image, width / height")
    figure.savefig(path, dpi=110)


def histogram(axes: Any, values: np.ndarray | None, title: str) -> None:
    """A histogram over an axis of powers of two; of nothing, a title alone."""
    axes.set_title(title)
    values = np.zeros(0) if values is None else values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        axes.set_axis_off()
        return
    low, high = np.floor(np.log2(values.min() * 0.99)), np.ceil(np.log2(values.max() * 1.01))
    axes.hist(values, bins=np.exp2(np.linspace(low, high, 40)))
    axes.set_xscale("log", base=2)
    ticks = np.exp2(np.arange(low, high + 1))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
