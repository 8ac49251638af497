"""The embedded data set: real handwritten digits scattered over crops of two photographs.

The handwriting is the UCI digits (1,797 scans of 8 x 8 pixels) and the photographs are `china.jpg` and
`flower.jpg`, all of which scikit-learn ships. Scene i of a split is drawn from (seed, split, i) alone.
"""

from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.segmentations import Segmentations
from tasks.data.sources import LabelSource, ObjectSource
from tasks.data.splits import ArraySplit, Split, SplitName

CLASS_NAMES = [str(digit) for digit in range(10)]
SHARES: dict[str, tuple[float, float]] = {"train": (0.0, 0.6), "val": (0.6, 0.8), "test": (0.8, 1.0)}
"""Which part of the handwriting, and of the photographs' columns, each split draws from."""

NUM_DIGITS = (2, 7)
"""Fewest and most digits of a scene."""
DIGIT_SIZE = (24 / 192, 72 / 192)
"""Smallest and largest digit, its grid of 8 x 8 as a share of the scene's side."""
CROP_SIZE = (96, 128)
"""Smallest and largest side of the piece of photograph that becomes a background, in its pixels."""
MAX_OVERLAP = 0.15
"""Share of the smaller of two boxes that may lie in the other."""
MIN_CONTRAST = 90.0
"""Least difference in luminance (0 … 255) between a digit and the mean of what lies behind it."""
LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Of R, G, B (ITU-R BT.601)."""


@dataclass
class Scene:
    """One picture and its N digits."""

    image: np.ndarray
    """uint8 (S, S, 3) RGB."""
    labels: np.ndarray
    """(N,) int64 in 0 … 9."""
    masks: np.ndarray
    """bool (N, S, S): the visible ink of each digit."""


class DigitsData(ObjectSource):
    """Ten classes, '0' … '9', with boxes around the ink; masks (as RLE) if asked for.

    `size` is a scene's side in pixels; digits grow with it. Handwriting and pieces of photograph of one
    split appear in no other.
    """

    may_be_mirrored = False
    """A mirrored digit is no digit."""

    def __init__(
        self,
        *,
        size: int = 192,
        num_train: int = 1200,
        num_val: int = 200,
        num_test: int = 200,
        seed: int = 0,
        masks: bool = False,
    ):
        if size < 64 or min(num_train, num_val, num_test) < 1 or seed < 0:
            raise ValueError(
                f"data.size={size} must be at least 64 pixels, data.num_train={num_train}, "
                f"data.num_val={num_val} and data.num_test={num_test} at least 1, data.seed={seed} at least 0"
            )
        super().__init__(masks=masks)
        self.size = size
        self.num_scenes: dict[str, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(CLASS_NAMES)

    def read_split(self, name: SplitName) -> Split[Annotations]:
        """The scenes, drawn in about 3 ms each."""
        glyphs, labels, photographs = material(name)
        images = np.empty((self.num_scenes[name], self.size, self.size, 3), np.uint8)
        all_labels, boxes, areas, counts = [], [], [], []
        for index in range(len(images)):
            generator = np.random.default_rng((self.seed, list(SHARES).index(name), index))
            scene = draw_scene(generator, self.size, glyphs, labels, photographs)
            images[index] = scene.image
            all_labels.append(scene.labels)
            areas.append(scene.masks.sum(axis=(1, 2)))
            boxes.append(mask_boxes(scene.masks))
            if self.masks:
                masks = scene.masks.astype(np.uint8)
                counts.extend(coco_mask.encode(np.asfortranarray(mask))["counts"] for mask in masks)
        num_objects = [len(scene_labels) for scene_labels in all_labels]
        annotations = Annotations(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=np.arange(len(images)),
            file_names=np.array([f"{name}/{index:05d}.png".encode() for index in range(len(images))]),
            sizes=np.full((len(images), 2), self.size, np.int32),
            offsets=np.concatenate([[0], np.cumsum(num_objects)]),
            ids=np.arange(1, sum(num_objects) + 1),  # from 1: to pycocotools' matching, id 0 means no object
            labels=np.concatenate(all_labels),
            boxes=np.concatenate(boxes).astype(np.float64),
            areas=np.concatenate(areas).astype(np.float64),
            is_crowd=np.zeros(sum(num_objects), bool),
            segmentations=Segmentations.from_objects(counts) if self.masks else None,
        )
        return ArraySplit(images, annotations)


@cache
def _scikit_learns_files() -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """What its `load_digits` and `load_sample_images` give: scans (1797, 64) of ink 0 … 16, their digits (1797,) and
    photographs, uint8 (427, 640, 3) RGB. Importing it, and scipy with it, takes longer than drawing scenes."""
    package = find_spec("sklearn")  # imports nothing
    if package is None or package.origin is None:
        raise ModuleNotFoundError("the embedded data needs scikit-learn", name="sklearn")
    folder = Path(package.origin).parent / "datasets"
    table = np.loadtxt(folder / "data" / "digits.csv.gz", delimiter=",")
    photographs = [np.asarray(Image.open(file)) for file in sorted((folder / "images").glob("*.jpg"))]
    return table[:, :-1], table[:, -1].astype(int), photographs


@cache
def material(name: SplitName) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """The split's handwriting, float32 (P, 10, 10) of ink 0 … 1 with an empty border, its labels (P,), and
    its strips of the photographs, uint8 (H, W, 3). The division never changes, whatever the seed."""
    start, stop = SHARES[name]
    scans, targets, photographs = _scikit_learns_files()
    order = np.random.default_rng(0).permutation(len(targets))
    chosen = order[round(start * len(order)) : round(stop * len(order))]
    glyphs = np.pad(scans[chosen].reshape(-1, 8, 8) / 16, ((0, 0), (1, 1), (1, 1))).astype(np.float32)
    strips = []
    for photograph in photographs:
        width = photograph.shape[1]
        strips.append(photograph[:, round(start * width) : round(stop * width)])
    return glyphs, targets[chosen].astype(np.int64), strips


def draw_scene(
    generator: np.random.Generator,
    size: int,
    glyphs: np.ndarray,
    labels: np.ndarray,
    photographs: list[np.ndarray],
) -> Scene:
    """One scene of `size` x `size` pixels from this handwriting and these photographs."""
    image = draw_background(generator, size, photographs).astype(np.float32)
    num_digits = int(generator.integers(NUM_DIGITS[0], NUM_DIGITS[1] + 1))
    sides = generator.uniform(*DIGIT_SIZE, num_digits) * size
    placed_boxes: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    placed_labels: list[int] = []
    for side in np.sort(sides)[::-1]:  # large ones first, while there is room
        index = int(generator.integers(len(glyphs)))
        ink = upscale(glyphs[index], float(side))
        corner = find_place(generator, ink > 0.5, size, placed_boxes)
        if corner is None:
            continue
        x, y = corner
        window = image[y : y + ink.shape[0], x : x + ink.shape[1]]
        colour = choose_colour(generator, window[ink > 0.5])
        window += ink[:, :, None] * (colour - window)
        mask = np.zeros((size, size), bool)
        mask[y : y + ink.shape[0], x : x + ink.shape[1]] = ink > 0.5
        for earlier in masks:
            earlier &= ~mask
        masks.append(mask)
        placed_boxes.append(mask_boxes(mask[None])[0])
        placed_labels.append(int(labels[index]))
    return Scene(image.round().astype(np.uint8), np.array(placed_labels), np.stack(masks))


def draw_background(generator: np.random.Generator, size: int, photographs: list[np.ndarray]) -> np.ndarray:
    """uint8 (size, size, 3): a random piece of a random photograph, mirrored or not."""
    photograph = photographs[generator.integers(len(photographs))]
    side = int(generator.integers(CROP_SIZE[0], CROP_SIZE[1] + 1))
    y = int(generator.integers(photograph.shape[0] - side + 1))
    x = int(generator.integers(photograph.shape[1] - side + 1))
    piece = photograph[y : y + side, x : x + side]
    if generator.random() < 0.5:
        piece = piece[:, ::-1]
    return cv2.resize(np.ascontiguousarray(piece), (size, size), interpolation=cv2.INTER_CUBIC)


def upscale(glyph: np.ndarray, side: float) -> np.ndarray:
    """float32 opacity 0 … 1 of a glyph whose 8 x 8 pixels become `side` x `side`, cropped to its ink."""
    pixel = side / 8
    extent = round(pixel * len(glyph))
    smooth = cv2.resize(glyph, (extent, extent), interpolation=cv2.INTER_CUBIC)
    # Interpolation spreads an edge over about one of the old pixels; this narrows it to about one new one.
    ink = ((smooth - 0.5) * pixel + 0.5).clip(0, 1)
    rows, columns = np.flatnonzero((ink > 0.5).any(axis=1)), np.flatnonzero((ink > 0.5).any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def find_place(
    generator: np.random.Generator, mask: np.ndarray, size: int, placed: list[np.ndarray]
) -> tuple[int, int] | None:
    """(x, y) at which the mask's box lies clear enough of those `placed`; None if 50 tries find none."""
    height, width = mask.shape
    corners = generator.integers(0, [size - width + 1, size - height + 1], (50, 2))
    fits = np.ones(len(corners), bool)
    for box in placed:
        stop = np.minimum(corners + np.array([width, height]), box[:2] + box[2:])
        shared = (stop - np.maximum(corners, box[:2])).clip(min=0).prod(axis=1)
        fits &= shared <= MAX_OVERLAP * min(width * height, box[2:].prod())
    if not fits.any():
        return None
    x, y = corners[fits.argmax()].tolist()
    return x, y


def choose_colour(generator: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """A random colour (3,) that stands out from the pixels `behind` (P, 3)."""
    luminance = behind.mean(axis=0) @ LUMINANCE
    for colour in generator.uniform(0, 255, (20, 3)):
        if abs(colour @ LUMINANCE - luminance) >= MIN_CONTRAST:
            return colour
    return np.full(3, 0.0 if luminance > 127 else 255.0)


def mask_boxes(masks: np.ndarray) -> np.ndarray:
    """(N, 4) int64 x, y, width, height, tight around each mask of (N, H, W); none may be empty."""
    boxes = []
    for mask in masks:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]))
    return np.array(boxes, np.int64).reshape(-1, 4)


SINGLE_DIGIT_SIZE = (0.55, 0.9)
"""Smallest and largest digit, its grid of 8 x 8 as a share of the image's side."""


class SingleDigitsData(LabelSource):
    """Ten classes, '0' … '9'. `size` is an image's side in pixels. Each scan of the split is drawn about
    equally often, each time at another place, size and colour; no handwriting is in two splits."""

    may_be_mirrored = False
    """A mirrored digit is no digit."""

    def __init__(
        self,
        *,
        size: int = 32,
        num_train: int = 4000,
        num_val: int = 1000,
        num_test: int = 1000,
        seed: int = 0,
    ):
        if size < 8 or min(num_train, num_val, num_test) < 1 or seed < 0:
            raise ValueError(
                f"data.size={size} must be at least 8 pixels, data.num_train={num_train}, "
                f"data.num_val={num_val} and data.num_test={num_test} at least 1, data.seed={seed} at least 0"
            )
        super().__init__()
        self.size = size
        self.num_images: dict[str, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(CLASS_NAMES)

    def read_split(self, name: SplitName) -> Split[ImageLabels]:
        """The images, drawn in about 0.1 ms each."""
        glyphs, glyph_labels, photographs = material(name)
        num_images = self.num_images[name]
        images = np.empty((num_images, self.size, self.size, 3), np.uint8)
        chosen = np.arange(num_images) % len(glyphs)
        for index, glyph in enumerate(glyphs[chosen]):
            generator = np.random.default_rng((self.seed, list(SHARES).index(name), index))
            images[index] = draw_image(generator, self.size, glyph, photographs)
        annotations = ImageLabels(
            class_names=self.class_names,
            category_ids=self.category_ids,
            image_ids=np.arange(num_images),
            labels=glyph_labels[chosen],
            file_names=np.array([f"{name}/{index:05d}.png".encode() for index in range(num_images)]),
        )
        return ArraySplit(images, annotations)


def draw_image(
    generator: np.random.Generator, size: int, glyph: np.ndarray, photographs: list[np.ndarray]
) -> np.ndarray:
    """uint8 (size, size, 3): `glyph`, float32 (10, 10) of ink 0 … 1, whole, somewhere on a photograph."""
    image = draw_background(generator, size, photographs).astype(np.float32)
    ink = upscale(glyph, float(generator.uniform(*SINGLE_DIGIT_SIZE) * size))
    ink = ink[:size, :size]
    height, width = ink.shape
    x, y = generator.integers(0, [size - width + 1, size - height + 1]).tolist()
    window = image[y : y + height, x : x + width]
    window += ink[:, :, None] * (choose_colour(generator, window[ink > 0.5]) - window)
    return image.round().astype(np.uint8)
