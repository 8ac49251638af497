"""What a classifier says of single pictures: for programs, as JSON, in words and drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tasks.contracts import Batch, Classification
from tasks.device_copies import fetch
from tasks.harness.drawing import class_color

NUM_SHOWN = 5


@dataclass
class ClassScores:
    """The K classes of one picture, the most probable first."""

    probabilities: np.ndarray
    """(K,) float32, descending, summing to 1."""
    labels: np.ndarray
    """(K,) int64: positions in the model's `class_names`."""
    class_names: list[str]
    """(K,) the name of each."""

    def __len__(self) -> int:
        return len(self.labels)

    def above(self, threshold: float) -> "ClassScores":
        """All of it: a classifier always names its best classes."""
        return self

    def draw(self, image: np.ndarray) -> np.ndarray:
        """`image` (uint8 (H, W, 3)) above a bar for each of the best classes."""
        return draw_best(image, self.class_names, self.labels, self.probabilities)

    def to_dict(self) -> dict[str, Any]:
        """The best classes, for a JSON file."""
        best = zip(self.class_names, self.labels.tolist(), self.probabilities.tolist(), strict=True)
        return {
            "classes": [
                {"class": name, "label": label, "probability": probability}
                for name, label, probability in list(best)[:NUM_SHOWN]
            ]
        }

    def summary(self) -> str:
        """The best class and its probability."""
        return f"{self.class_names[0]} ({self.probabilities[0]:.1%})"


def results(found: Classification, batch: Batch, class_names: list[str]) -> list[ClassScores]:
    """A result for each picture of the batch."""
    shares, labels = fetch(*found.probabilities().sort(dim=1, descending=True, stable=True))
    return [
        ClassScores(share, label, [class_names[k] for k in label])
        for share, label in zip(shares.numpy(), labels.numpy(), strict=True)
    ]


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
