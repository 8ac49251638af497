"""The best classes of a picture as bars below it."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.visualization.boxes import class_color

NUM_SHOWN = 5


def draw_best(
    image: np.ndarray, class_names: list[str], labels: np.ndarray, probabilities: np.ndarray
) -> np.ndarray:
    """`image` (uint8 (H, W, 3)) above a bar for each of the first five classes given, best first.

    Small images come back enlarged by a whole factor, so that the writing can be read.
    """
    height, width = image.shape[:2]
    factor = max(1, min(-(-320 // min(height, width)), 1600 // max(height, width)))
    picture = Image.fromarray(image).resize((width * factor, height * factor), Image.Resampling.NEAREST)
    width, height = picture.size
    rows = list(zip(class_names, labels.tolist(), probabilities.tolist(), strict=True))[:NUM_SHOWN]
    row_height = max(18, round(0.045 * height))
    canvas = Image.new("RGB", (width, height + row_height * len(rows)), (32, 32, 32))
    canvas.paste(picture)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(round(0.7 * row_height))
    margin = row_height // 4
    for row, (name, label, probability) in enumerate(rows):
        top = height + row * row_height
        bar = (0, top + 1, round(probability * (width - 1)), top + row_height - 2)
        pen.rectangle(bar, fill=tuple(value // 2 for value in class_color(label)))  # dark, for white writing
        middle = top + row_height / 2
        share = f"{probability:.1%}"
        room = width - 3 * margin - pen.textlength(share, font)
        while len(name) > 1 and pen.textlength(name, font) > room:
            name = name.removesuffix("…")[:-1] + "…"
        pen.text((margin, middle), name, (255, 255, 255), font, anchor="lm")
        pen.text((width - margin, middle), share, (255, 255, 255), font, anchor="rm")
    return np.array(canvas)
