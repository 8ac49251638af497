"""Class maps as people see them: a picture tinted by class with a legend, and a palette PNG of the labels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.data.annotations.class_maps import BACKGROUND
from tasks.files import write_whole
from tasks.targets import IGNORE_LABEL
from tasks.visualization.boxes import Color, class_color

MAP_OPACITY = 0.55
"""Share of the class's colour in a tinted pixel."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of R, G, B (ITU-R BT.601)
_SMALLEST, _LARGEST = 400, 1600  # small pictures are enlarged to sides of about this


def label_colors(class_names: Sequence[str]) -> list[Color]:
    """The colour of each label; black for the background, if the first class is it, and then the same for
    each class as where nothing counts as background."""
    if class_names and class_names[0] == BACKGROUND:
        return [(0, 0, 0), *(class_color(label) for label in range(len(class_names) - 1))]
    return [class_color(label) for label in range(len(class_names))]


def draw_class_map(image: np.ndarray, class_map: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """`image` with every pixel tinted by its class, above a legend of the classes that are there.

    Tinted pixels lose their own colour, so that the tint is that of the legend. Background and pixels of
    unknown class are left as they are. Small images come back enlarged by a whole factor, so that the legend
    can be read.

    Args:
        image: uint8 (H, W, 3) RGB.
        class_map: uint8 (H, W), 0 … K-1 or `IGNORE_LABEL`.
        class_names: K names.
    """
    height, width = class_map.shape
    assert image.shape == (height, width, 3), (image.shape, class_map.shape)
    has_background = bool(class_names) and class_names[0] == BACKGROUND
    colors = np.zeros((256, 3), np.float32)
    colors[: len(class_names)] = label_colors(class_names)
    opacity = np.zeros(256, np.float32)
    opacity[int(has_background) : len(class_names)] = MAP_OPACITY
    weight = opacity[class_map][:, :, None]
    grey = np.repeat((image @ _LUMA)[:, :, None], 3, axis=2)
    tinted = (
        np.where(weight > 0, grey * (1 - weight) + colors[class_map] * weight, image).round().astype(np.uint8)
    )

    factor = max(1, min(-(-_SMALLEST // min(height, width)), _LARGEST // max(height, width)))
    picture = Image.fromarray(tinted).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    counts = np.bincount(class_map.ravel(), minlength=256)[: len(class_names)]
    shown = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
    entries = [
        (label_colors(class_names)[label], f"{class_names[label]} {counts[label] / class_map.size:.1%}")
        for label in shown
    ]
    legend = _legend(picture.width, picture.height, entries)
    canvas = Image.new("RGB", (picture.width, picture.height + legend.height))
    canvas.paste(picture)
    canvas.paste(legend, (0, picture.height))
    return np.array(canvas)


def write_label_png(path: Path, class_map: np.ndarray, class_names: Sequence[str]) -> None:
    """Writes the labels (uint8 (H, W)) as a palette PNG, whole or not at all: its pixels are the labels, and
    a viewer shows them in the colours of `draw_class_map`, what is unknown in white."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(class_names)] = label_colors(class_names)
    palette[IGNORE_LABEL] = 255
    labels = Image.fromarray(class_map)
    labels.putpalette(palette.ravel().tolist())
    with write_whole(path) as partial:
        labels.save(partial, format="PNG")


def _legend(width: int, picture_height: int, entries: Sequence[tuple[Color, str]]) -> Image.Image:
    """A strip of that width: a patch of each colour with its text, in as many rows as are needed."""
    size = max(13, round(0.025 * (width * picture_height) ** 0.5))
    font = ImageFont.load_default(size)
    row_height, gap = round(1.7 * size), size // 2
    places: list[tuple[int, int]] = []
    x = y = gap
    for _, text in entries:
        extent = size + gap + int(font.getlength(text)) + 2 * gap
        if x > gap and x + extent > width:
            x, y = gap, y + row_height
        places.append((x, y))
        x += extent
    strip = Image.new("RGB", (width, y + row_height if entries else 1), (32, 32, 32))
    pen = ImageDraw.Draw(strip)
    for (x, y), (color, text) in zip(places, entries, strict=True):
        pen.rectangle((x, y, x + size, y + size), fill=color, outline=(200, 200, 200))
        pen.text((x + size + gap, y + size / 2), text, (255, 255, 255), font, anchor="lm")
    return strip
