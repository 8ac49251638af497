"""Plots of what a data set holds: bars of its classes, histograms of its boxes and images."""

from pathlib import Path
from typing import Any

import numpy as np

from tasks.visualization.plot_style import BLUE, ORANGE, figure

SMALL, LARGE = 32, 96
"""Sides of a box that COCO calls small below, and large above."""


MOST_CLASSES = 40
"""As many bars as can be read."""


def plot(numbers: dict[str, Any], path: Path) -> None:
    """Bars of the classes, histograms of sides and aspects, as far as `numbers` has them."""
    by_class = numbers.get("objects_by_class") or numbers.get("images_by_class") or {}
    ranked = sorted(by_class.items(), key=lambda item: -item[1])[:MOST_CLASSES]
    with figure(path, 14, 9) as drawn:
        classes, sides, boxes, images = drawn.subplots(2, 2).ravel()
        classes.bar(range(len(ranked)), [count for _, count in ranked], color=BLUE)
        classes.set_xticks(range(len(ranked)), [name for name, _ in ranked], rotation=90)
        if len(ranked) > MOST_CLASSES // 2:
            classes.tick_params("x", labelsize=10)
        classes.grid(axis="x", visible=False)
        shown = f"the {MOST_CLASSES} largest of {len(by_class)} classes" * (len(by_class) > MOST_CLASSES)
        classes.set_title(f"{'objects' if 'objects' in numbers else 'images'}, {shown or 'by class'}")
        histogram(sides, numbers.get("sides"), "√area of boxes as the network sees them, pixels")
        for side in (SMALL, LARGE):
            sides.axvline(side, color=ORANGE, linestyle="--", linewidth=2)
        histogram(boxes, numbers.get("box_aspects"), "width / height of boxes")
        histogram(images, numbers.get("image_aspects"), "width / height of images")


def histogram(axes: Any, values: np.ndarray | None, title: str) -> None:
    """A histogram over an axis of powers of two; of nothing, a title alone."""
    axes.set_title(title)
    values = np.zeros(0) if values is None else values[np.isfinite(values) & (values > 0)]
    if len(values) == 0:
        axes.set_axis_off()
        return
    low, high = np.floor(np.log2(values.min() * 0.99)), np.ceil(np.log2(values.max() * 1.01))
    axes.hist(values, bins=np.exp2(np.linspace(low, high, 40)), color=BLUE)
    axes.set_xscale("log", base=2)
    ticks = np.exp2(np.arange(low, high + 1))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
