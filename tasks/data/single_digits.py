"""The embedded data set for classification: one handwritten digit on a piece of photograph an image.

Handwriting, photographs, their division into splits and the way they are drawn are those of
tasks/data/digits.py. Image i of a split is drawn from (seed, split, i) alone.
"""

import numpy as np

from tasks.data.digits import CLASS_NAMES, SHARES, choose_colour, draw_background, material, upscale
from tasks.data.image_labels import ImageLabels
from tasks.data.sources import SplitName

DIGIT_SIZE = (0.55, 0.9)
"""Smallest and largest digit, its grid of 8 x 8 as a share of the image's side."""


class SingleDigitsSplit:
    """The images of one split, drawn when first needed and then kept."""

    def __init__(self, images: np.ndarray, annotations: ImageLabels):
        self.images = images
        self.annotations = annotations

    def __len__(self) -> int:
        return len(self.images)

    def image(self, index: int) -> np.ndarray:
        """uint8 (S, S, 3) RGB."""
        return self.images[index].copy()  # what a caller draws on it must not stay


class SingleDigitsData:
    """Ten classes, '0' … '9'. `size` is an image's side in pixels. Each scan of the split is drawn about
    equally often, each time at another place, size and colour; no handwriting is in two splits."""

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
        self.size = size
        self.num_images: dict[str, int] = {"train": num_train, "val": num_val, "test": num_test}
        self.seed = seed
        self._splits: dict[str, SingleDigitsSplit] = {}

    @property
    def class_names(self) -> list[str]:
        """Names by label."""
        return list(CLASS_NAMES)

    @property
    def category_ids(self) -> np.ndarray:
        """(10,) int64: the digits themselves."""
        return np.arange(10)

    def split(self, name: SplitName) -> SingleDigitsSplit:
        """The split; its images are drawn on the first call, about 0.1 ms each."""
        if name not in self._splits:
            self._splits[name] = self._draw(name)
        return self._splits[name]

    def _draw(self, name: SplitName) -> SingleDigitsSplit:
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
        return SingleDigitsSplit(images, annotations)


def draw_image(
    generator: np.random.Generator, size: int, glyph: np.ndarray, photographs: list[np.ndarray]
) -> np.ndarray:
    """uint8 (size, size, 3): `glyph`, float32 (10, 10) of ink 0 … 1, whole, somewhere on a photograph."""
    image = draw_background(generator, size, photographs).astype(np.float32)
    ink = upscale(glyph, float(generator.uniform(*DIGIT_SIZE) * size))
    ink = ink[:size, :size]
    height, width = ink.shape
    x, y = generator.integers(0, [size - width + 1, size - height + 1]).tolist()
    window = image[y : y + height, x : x + width]
    window += ink[:, :, None] * (choose_colour(generator, window[ink > 0.5]) - window)
    return image.round().astype(np.uint8)
