"""`Predictor`: pictures in, what a model finds in them out, with nothing but a model file."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from tasks.contracts import Batch, Model
from tasks.data.loading.collate import batch_images
from tasks.data.loading.images import DEFAULT_READING, Reading, read_image, to_rgb
from tasks.devices import autocast, resolve_device, resolve_precision
from tasks.inference.ready import ready_model
from tasks.metrics.operating_point import OperatingPoint
from tasks.visualization.result import Result
from tasks.zoo.model_file import Header, load_model
from tasks.zoo.registry import RESULTS, for_objects, lookup, with_views

PREDICTS_IN = ("32-true", "bf16-mixed")
Picture = str | Path | Image.Image | np.ndarray
READERS = 2
"""Threads that decode files ahead."""


class Predictor:
    """Applies a model to pictures. The file says how pixels reach the network, so nothing is to be set.

    `score_threshold` drops weaker objects than the model itself would. Without one, a file that `vertebra tune` has
    written goes by its own threshold for each class, and scores are calibrated probabilities; any other shows all. Up
    to `batch_size` pictures go through the network at once, those of one size together.

    For small objects in large pictures, `tile` cuts each into tiles of so many pixels a side, neighbours sharing
    `overlap` of it, and puts together what is found in them and in the whole. For accuracy at the price of time,
    `scales` looks at each picture in several sizes (1 is the model's own) and `flip` at its mirror image as well.

    A file of more than `max_pixels`, width times height, is not read; None stands for 89 million.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        precision: str = "auto",
        score_threshold: float | None = None,
        batch_size: int = 8,
        tile: int | None = None,
        overlap: float = 0.2,
        scales: Sequence[float] = (1.0,),
        flip: bool = False,
        max_pixels: int | None = None,
    ) -> None:
        if score_threshold is not None and not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold={score_threshold} must be between 0 and 1")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(f"batch_size={batch_size} must be a whole number of pictures, at least 1")
        if tile is not None and tile < 1:
            raise ValueError(f"tile={tile} must be at least 1, or null for whole pictures")
        if not 0 <= overlap < 1:
            raise ValueError(
                f"overlap={overlap} must be at least 0 and less than 1, a share of the tile's side"
            )
        self.reading = DEFAULT_READING if max_pixels is None else Reading(max_pixels)
        self.tile = tile
        self.overlap = overlap
        self._find_in_tiles = (
            None if tile is None else for_objects("tiles", f"tile={tile}", model.header.task)
        )
        model = with_views(model, scales, flip)
        self.device = resolve_device(device)
        if resolve_precision(precision, self.device) not in PREDICTS_IN:
            raise ValueError(
                f"precision={precision} is for training; predictions take {', '.join(PREDICTS_IN)} or auto"
            )
        self.precision = precision
        self.batch_size = batch_size
        self.header: Header = model.header
        self.score_threshold = score_threshold or 0.0
        self.operating_point: OperatingPoint | None = None
        """What `vertebra tune` has stored, where no threshold was given."""
        if score_threshold is None:
            provenance, num_classes = self.header.provenance, len(self.header.class_names)
            self.operating_point = OperatingPoint.in_header(provenance, num_classes)
        self._results: Callable[..., list[Result]] = lookup(RESULTS, "task", self.header.task)
        self.model = ready_model(model, self.device)

    @classmethod
    def load(
        cls, path: str | Path, *, settings: Mapping[str, Any] | None = None, **options: Any
    ) -> "Predictor":
        """A predictor from a model file or a checkpoint; `settings` as in `load_model`, options the constructor's."""
        return cls(load_model(path, settings), **options)

    @overload
    def __call__(self, pictures: Picture) -> Any: ...
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Any]: ...
    def __call__(self, pictures: Picture | Sequence[Picture]) -> Any | list[Any]:
        """What is found in a picture, or in each of a list of them: `Result`s of the model's task.

        A picture is a path, a PIL image (its EXIF orientation is respected) or an RGB uint8 array
        (H, W, 3). Raises `ValueError` or `FileNotFoundError` for anything else, naming it.
        """
        if isinstance(pictures, str | Path | Image.Image | np.ndarray):
            return self([pictures])[0]
        if not isinstance(pictures, Sequence) or isinstance(pictures, bytes):
            raise ValueError(
                f"a {type(pictures).__name__} is not a picture; give a path, a PIL image or an RGB uint8 array of "
                "shape (height, width, 3), or a list of these"
            )
        if self._find_in_tiles is not None:
            return [
                self._find_in_tiles(_pixels(picture, self.reading), self._in_batches, self.tile, self.overlap)
                for picture in pictures
            ]
        return self._in_batches(pictures)

    @property
    def window(self) -> int:
        """Pictures that are looked at together for those of one size, which go through the network at once."""
        return 2 * self.batch_size

    def apply(self, pictures: Sequence[Picture], function: Callable[[Any, Batch], list[Any]]) -> list[Any]:
        """An answer for each picture: what `function` makes of batches and of what the network finds in them.

        `function` gives one for each picture of a batch, under `torch.inference_mode`.
        """
        found: list[Any] = []
        for images in self._windows(pictures):
            # Padding to the largest of a batch would let a picture's result depend on its company.
            sizes = [self.model.preprocessing.output_size(*image.shape[:2]) for image in images]
            results: dict[int, Any] = {}
            for size in dict.fromkeys(sizes):
                alike = [i for i, other in enumerate(sizes) if other == size]
                for batch in (alike[i : i + self.batch_size] for i in range(0, len(alike), self.batch_size)):
                    answers = self._predict([images[i] for i in batch], function)
                    results.update(zip(batch, answers, strict=True))
            found += [results[i] for i in range(len(images))]
        return found

    def _windows(self, pictures: Sequence[Picture]) -> Iterator[list[np.ndarray]]:
        """The pixels of one window after another; files of the next are decoded while this one is predicted."""
        if len(pictures) == 1:  # a thread would cost more than it saves
            yield [_pixels(pictures[0], self.reading)]
            return
        with ThreadPoolExecutor(READERS) as pool:
            windows = [
                pictures[start : start + self.window] for start in range(0, len(pictures), self.window)
            ]
            ahead: list[Future[np.ndarray]] = []
            for following in [*windows, []]:
                current, ahead = ahead, [pool.submit(_pixels, p, self.reading) for p in following]
                if current:
                    yield [future.result() for future in current]

    @torch.inference_mode()
    def _predict(self, images: list[np.ndarray], function: Callable[[Any, Batch], list[Any]]) -> list[Any]:
        batch = batch_images(images, self.model.preprocessing)
        batch = (batch.pin_memory() if self.device.type == "cuda" else batch).to(self.device)
        with autocast(self.precision, self.device):
            found = self.model(batch)
        return function(found, batch)

    def _in_batches(self, pictures: Sequence[Picture]) -> list[Any]:
        return self.apply(pictures, self._to_results)

    def _to_results(self, found: Any, batch: Batch) -> list[Any]:
        results = self._results(found, batch, self.header.class_names)
        if self.operating_point is not None:
            return [self.operating_point.applied(result) for result in results]
        return [result.above(self.score_threshold) for result in results]


def _pixels(picture: Picture, reading: Reading) -> np.ndarray:
    if isinstance(picture, str | Path):
        return read_image(picture, reading=reading)
    if isinstance(picture, Image.Image | np.ndarray):
        return to_rgb(picture)
    raise ValueError(
        f"a {type(picture).__name__} is not a picture; give a path, a PIL image or an RGB uint8 array of shape "
        "(height, width, 3)"
    )
