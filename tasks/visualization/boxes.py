"""Pictures for people: boxes with names and scores on an image, and many images on one sheet.

Images are uint8 (H, W, 3) RGB. Nothing given is changed; every function returns a new image.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image, ImageDraw, ImageFont

from tasks.files import write_whole

Color = tuple[int, int, int]
Rectangle = tuple[int, int, int, int]  # left, top, right, bottom; the last two outside


# Neighbours differ in hue and lightness, so that a data set of few classes gets the most distinct ones
# (after Sasha Trubetskoy's list of 20 distinct colours, without greys).
_PALETTE: tuple[Color, ...] = (
    (230, 25, 75), (60, 180, 75), (255, 225, 25), (67, 99, 216), (245, 130, 49), (145, 30, 180),
    (66, 212, 244), (240, 50, 230), (191, 239, 69), (250, 190, 212), (0, 128, 128), (170, 140, 255),
    (154, 99, 36), (255, 250, 200), (128, 0, 0), (170, 255, 195), (128, 128, 0), (0, 0, 160),
)  # fmt: skip


def class_color(label: int) -> Color:
    """The colour of a class, the same in every picture and run; the first 18 are far apart."""
    if label < len(_PALETTE):
        return _PALETTE[label]
    # Hues at the golden angle never repeat and fill the largest gap first.
    hue, light = label * 0.618034 % 1, (0.45, 0.65, 0.8)[label % 3]
    spread = 0.9 * min(light, 1 - light)
    red, green, blue = (
        round(255 * (light - spread * max(-1, min(k - 3, 9 - k, 1))))
        for k in ((offset + 12 * hue) % 12 for offset in (0, 8, 4))
    )  # HSL to RGB
    return red, green, blue


def draw_detections(
    image: np.ndarray,
    boxes: ArrayLike,
    labels: ArrayLike,
    scores: ArrayLike,
    class_names: Sequence[str],
    *,
    score_threshold: float = 0.5,
    gt_boxes: ArrayLike | None = None,
    gt_labels: ArrayLike | None = None,
    gt_is_crowd: ArrayLike | None = None,
) -> np.ndarray:
    """`image` with the boxes whose score reaches `score_threshold`, the best on top.

    Small images come back enlarged by a whole factor, so that the writing can be read. What is true, where
    given, is drawn first in dashed white, named below its boxes.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (N, 4) xyxy in pixels of `image`; parts outside are cut off.
        labels: (N,) in 0 … K-1; rows of padding (-1) are left out.
        scores: (N,).
        class_names: K names.
        score_threshold: from 0 to 1.
        gt_boxes: (G, 4) xyxy, or None.
        gt_labels: (G,); rows of padding (-1) are left out.
        gt_is_crowd: (G,), or None; crowds are dotted and called so.
    """
    canvas, factor = _enlarged(image)
    pen = _Pen(canvas)

    names: list[tuple[Rectangle, str, Color]] = []
    if gt_boxes is not None:
        for rectangle, label, crowd in _visible(gt_boxes, gt_labels, gt_is_crowd, factor, canvas.size):
            is_crowd = gt_is_crowd is not None and crowd > 0
            pen.dashes(rectangle, length=1 if is_crowd else 3)
            names.append((rectangle, f"{class_names[label]}{' crowd' * is_crowd}", (255, 255, 255)))
    num_true = len(names)
    shown = [row for row in _visible(boxes, labels, scores, factor, canvas.size) if row[2] >= score_threshold]
    shown.sort(key=lambda row: row[2])
    for rectangle, label, score in shown:
        pen.box(rectangle, class_color(label))
        names.append((rectangle, f"{class_names[label]} {score:.2f}", class_color(label)))

    # The best choose their place first and are written last, on top of those that found no free place.
    taken: list[Rectangle] = []
    places = []
    for i, (rectangle, text, color) in reversed(list(enumerate(names))):
        text = pen.fitting(text)
        place = pen.place(rectangle, text, taken, below=i < num_true)
        taken.append(place)
        places.append((place, text, color))
    for place, text, color in reversed(places):
        pen.write(place, text, color)
    return np.array(canvas)


RIGHT_COLOR, WRONG_COLOR = (60, 180, 75), (230, 25, 75)


def draw_outcomes(
    image: np.ndarray, boxes: ArrayLike, captions: Sequence[str], is_right: ArrayLike, missed: ArrayLike
) -> np.ndarray:
    """`image` with what was found, right in green and false in red, each with its caption, and in dashed white what was
    not. Small images come back enlarged.

    Args:
        image: uint8 (H, W, 3) RGB.
        boxes: (N, 4) xyxy in pixels of `image`.
        captions: N texts.
        is_right: (N,) bool.
        missed: (G, 4) xyxy.
    """
    canvas, factor = _enlarged(image)
    pen = _Pen(canvas)
    places = np.arange(len(captions))
    for rectangle, _, _ in _visible(missed, np.zeros(len(np.asarray(missed))), None, factor, canvas.size):
        pen.dashes(rectangle)
    taken: list[Rectangle] = []
    writings = []
    colors = np.where(np.asarray(is_right, bool)[:, None], RIGHT_COLOR, WRONG_COLOR).tolist()
    for rectangle, row, _ in _visible(boxes, places, None, factor, canvas.size):
        red, green, blue = colors[row]
        pen.box(rectangle, (red, green, blue))
        text = pen.fitting(captions[row])
        taken.append(pen.place(rectangle, text, taken, below=False))
        writings.append((taken[-1], text, (red, green, blue)))
    for place, text, color in writings:
        pen.write(place, text, color)
    return np.array(canvas)


def picture_sheet(images: Sequence[np.ndarray], *, max_side: int = 2400) -> np.ndarray:
    """The images in rows on one sheet whose longer side is at most `max_side`; images keep their shapes."""
    if not images:
        raise ValueError("picture_sheet got no images: give it at least one")
    for image in images:
        _check_image(image)
    root = math.ceil(math.sqrt(len(images)))
    num_columns = min((root, root + 1), key=lambda columns: -len(images) % columns)  # fewest empty places
    num_columns = min(num_columns, len(images))
    num_rows = -(-len(images) // num_columns)
    gap = 8
    cell = np.max([image.shape[:2] for image in images], axis=0)
    room = [(max_side - gap) / count - gap for count in (num_rows, num_columns)]
    cell = np.maximum(1, np.floor(cell * min(1.0, *(room / cell)))).astype(int)
    height, width = cell.tolist()
    sheet = Image.new(
        "RGB", (gap + num_columns * (width + gap), gap + num_rows * (height + gap)), (245, 245, 245)
    )
    for i, image in enumerate(images):
        row, column = divmod(i, num_columns)
        scale = min(1.0, height / image.shape[0], width / image.shape[1])
        size = (max(1, int(image.shape[1] * scale)), max(1, int(image.shape[0] * scale)))
        picture = Image.fromarray(image)
        picture = picture if scale == 1 else picture.resize(size, Image.Resampling.LANCZOS)
        left = gap + column * (width + gap) + (width - size[0]) // 2
        top = gap + row * (height + gap) + (height - size[1]) // 2
        sheet.paste(picture, (left, top))
    return np.array(sheet)


class _Pen:
    """Lines and writing on one image, as thick and as large as suits its size."""

    def __init__(self, canvas: Image.Image) -> None:
        self.width, self.height = canvas.size
        self.draw = ImageDraw.Draw(canvas)
        self.font_size = max(13, round(0.025 * math.sqrt(self.width * self.height)))
        self.font = _font(self.font_size)
        self.line = max(2, round(self.font_size / 6))
        self.margin = max(2, self.font_size // 5)

    def box(self, rectangle: Rectangle, color: Color) -> None:
        left, top, right, bottom = rectangle
        # A thin dark rim on both sides keeps a bright line visible on a bright background.
        self._rectangle((left - 1, top - 1, right + 1, bottom + 1), (0, 0, 0), self.line + 2)
        self._rectangle(rectangle, color, self.line)

    def dashes(self, rectangle: Rectangle, length: int = 3) -> None:
        left, top, right, bottom = rectangle
        self._rectangle(rectangle, (0, 0, 0), self.line)  # black between the white dashes
        dash = length * self.line
        for start in range(left, right, 2 * dash):
            stop = min(start + dash, right)
            self._fill((start, top, stop, min(top + self.line, bottom)), (255, 255, 255))
            self._fill((start, max(bottom - self.line, top), stop, bottom), (255, 255, 255))
        for start in range(top, bottom, 2 * dash):
            stop = min(start + dash, bottom)
            self._fill((left, start, min(left + self.line, right), stop), (255, 255, 255))
            self._fill((max(right - self.line, left), start, right, stop), (255, 255, 255))

    def fitting(self, text: str) -> str:
        """`text` on one line, its end cut off where it is wider than the image."""
        text = " ".join(text.split())
        cut = text
        while len(cut) > 1 and self._text_size(cut)[0] > self.width:
            text = text[:-1]
            cut = text + "…"
        return cut

    def place(self, rectangle: Rectangle, text: str, taken: list[Rectangle], *, below: bool) -> Rectangle:
        """Where to write beside a box: inside the image, and off the places taken as far as possible."""
        left, top, right, bottom = rectangle
        width, height = self._text_size(text)
        rows = [top - height, bottom, top + self.line, bottom - self.line - height]
        if below:
            rows = [bottom, top - height, bottom - self.line - height, top + self.line]
        candidates = []
        for y in rows:
            for x in (left, right - width):
                x = max(0, min(x, self.width - width))
                inside = max(0, min(y, self.height - height))
                place = (x, inside, x + width, inside + height)
                covered = sum(_overlap(place, other) for other in taken)
                candidates.append((covered + (1 if inside != y else 0), len(candidates), place))
        return min(candidates)[2]

    def write(self, place: Rectangle, text: str, background: Color) -> None:
        red, green, blue = background
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 140  # luma, ITU-R BT.601
        self._fill(place, background)
        self._rectangle(place, (0, 0, 0), 1)
        self.draw.text(
            (place[0] + self.margin, (place[1] + place[3]) / 2),
            text,
            fill=(255, 255, 255) if dark else (0, 0, 0),
            font=self.font,
            anchor="lm",
        )

    def _text_size(self, text: str) -> tuple[int, int]:
        return math.ceil(self.font.getlength(text)) + 2 * self.margin, round(1.35 * self.font_size)

    def _fill(self, rectangle: Rectangle, color: Color) -> None:
        left, top, right, bottom = rectangle
        if right > left and bottom > top:
            self.draw.rectangle((left, top, right - 1, bottom - 1), fill=color)

    def _rectangle(self, rectangle: Rectangle, color: Color, width: int) -> None:
        left, top, right, bottom = rectangle
        self.draw.rectangle(
            (left, top, max(left, right - 1), max(top, bottom - 1)), outline=color, width=width
        )


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    assert isinstance(font, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
    return font


def _enlarged(image: np.ndarray) -> tuple[Image.Image, int]:
    """A copy to draw on, larger by the whole factor that brings its shorter side to 400 pixels or more, but the longer
    not past 1600; and that factor."""
    _check_image(image)
    canvas = Image.fromarray(image)
    factor = max(1, min(-(-400 // min(canvas.size)), 1600 // max(canvas.size)))
    size = (canvas.width * factor, canvas.height * factor)
    return (canvas.resize(size, Image.Resampling.BICUBIC) if factor > 1 else canvas.copy()), factor


def _visible(
    boxes: ArrayLike, labels: ArrayLike | None, scores: ArrayLike | None, factor: int, size: tuple[int, int]
) -> Iterator[tuple[Rectangle, int, float]]:
    """Rectangles on the canvas of `size` (width, height), labels and scores; none for padding, nan, and
    what lies outside."""
    array = np.asarray(boxes, np.float64).reshape(-1, 4) * factor
    numbers = np.asarray(labels, np.int64)
    values = np.ones(len(array)) if scores is None else np.asarray(scores, np.float64)
    assert len(array) == len(numbers) == len(values), (len(array), len(numbers), len(values))
    inside = (array[:, :2] < size).all(axis=1) & (array[:, 2:] > 0).all(axis=1)  # False for nan
    keep = (numbers >= 0) & inside
    limits = np.array([size[0], size[1]] * 2)
    corners = np.clip(np.rint(array[keep]), 0, limits).astype(int)
    for (left, top, right, bottom), label, value in zip(
        corners.tolist(), numbers[keep].tolist(), values[keep].tolist(), strict=True
    ):
        yield (left, top, max(left + 1, right), max(top + 1, bottom)), label, value


def _overlap(a: Rectangle, b: Rectangle) -> int:
    """Pixels that two rectangles share."""
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _check_image(image: np.ndarray) -> None:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"an image to draw on must be uint8 of shape (height, width, 3); got {image.dtype} {image.shape}"
        )


def write_picture(path: Path, image: np.ndarray) -> None:
    """Writes uint8 RGB (H, W, 3) as the kind of file that `path` names, whole or not at all."""
    with write_whole(path) as partial:
        Image.fromarray(image).save(partial, quality=92)
