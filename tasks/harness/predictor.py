"""`Predictor`: pictures in, found objects in original pixels out, with nothing but a model file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from PIL import Image

from tasks.contracts import Model
from tasks.data.collate import batch_images
from tasks.data.images import read_image, to_rgb
from tasks.harness.model_file import Header, load_model
from tasks.harness.precision import autocast, resolve_device

Picture = str | Path | Image.Image | np.ndarray


@dataclass
class Prediction:
    """The N objects found in one picture, best first."""

    boxes: np.ndarray
    """(N, 4) float32 xyxy in pixels of the picture as given."""
    scores: np.ndarray
    """(N,) float32 in 0 … 1, descending."""
    labels: np.ndarray
    """(N,) int64: positions in the model's `class_names`."""
    class_names: list[str]
    """(N,) the name of each object's class."""

    def __len__(self) -> int:
        return len(self.scores)


class Predictor:
    """Applies a model to pictures. The file says how pixels reach the network, so nothing is to be set.

    `score_threshold` drops weaker objects than the model itself would; `batch_size` pictures go through
    the network at once.
    """

    def __init__(
        self,
        model: Model,
        *,
        device: str = "auto",
        precision: str = "auto",
        score_threshold: float = 0.0,
        batch_size: int = 8,
    ) -> None:
        if not 0 <= score_threshold <= 1:
            raise ValueError(f"score_threshold={score_threshold} must be between 0 and 1")
        self.device = resolve_device(device)
        self.precision = precision
        self.score_threshold = score_threshold
        self.batch_size = batch_size
        self.header: Header = model.header
        self.model: Model = model.to(device=self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> "Predictor":
        """A predictor from a model file or a checkpoint; options are the constructor's."""
        return cls(load_model(path), **options)

    @overload
    def __call__(self, pictures: Picture) -> Prediction: ...
    @overload
    def __call__(self, pictures: Sequence[Picture]) -> list[Prediction]: ...
    def __call__(self, pictures: Picture | Sequence[Picture]) -> Prediction | list[Prediction]:
        """What is found in a picture, or in each of a list of them.

        A picture is a path, a PIL image (its EXIF orientation is respected) or an RGB uint8 array
        (H, W, 3). Raises `ValueError` or `FileNotFoundError` for anything else, naming it.
        """
        if isinstance(pictures, str | Path | Image.Image | np.ndarray):
            return self._predict([_pixels(pictures)])[0]
        predictions: list[Prediction] = []
        for start in range(0, len(pictures), self.batch_size):
            predictions += self._predict([_pixels(p) for p in pictures[start : start + self.batch_size]])
        return predictions

    @torch.inference_mode()
    def _predict(self, images: list[np.ndarray]) -> list[Prediction]:
        preprocessing = self.model.preprocessing
        batch = batch_images(images, preprocessing).to(self.device)
        with autocast(self.precision, self.device):
            found = self.model(batch)
        found = found.to_original(batch.sizes, batch.original_sizes)
        boxes, scores, labels = (
            x.cpu().numpy() for x in (found.boxes.float(), found.scores.float(), found.labels)
        )
        return [self._prediction(*rows) for rows in zip(boxes, scores, labels, strict=True)]

    def _prediction(self, boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray) -> Prediction:
        keep = (labels >= 0) & (scores >= self.score_threshold)
        names = [self.header.class_names[label] for label in labels[keep]]
        return Prediction(boxes[keep], scores[keep], labels[keep], names)


def _pixels(picture: Picture) -> np.ndarray:
    return read_image(picture) if isinstance(picture, str | Path) else to_rgb(picture)
