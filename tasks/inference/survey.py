"""`Surveyor`: how unsure a model is of pictures, and where they lie in its feature space."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tasks.contracts import Batch
from tasks.device_copies import fetch
from tasks.inference.predictor import Picture, Predictor
from tasks.inference.uncertainty import cells_inside, uncertainties


class Seen(NamedTuple):
    """What a model makes of one picture."""

    uncertainty: float
    """At least 0, the higher the less sure."""
    feature: np.ndarray
    """float32 (C,), of length 1: the backbone's last map, averaged over the picture."""


class Surveyor:
    """Looks at pictures through the network of a predictor; `open` hooks it to the backbone for as long as it takes."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        point = predictor.operating_point
        self._calibration = None if point is None else point.calibration
        self._maps: Tensor | None = None

    @classmethod
    @contextmanager
    def open(cls, predictor: Predictor) -> Iterator["Surveyor"]:
        """A surveyor until the block is left."""
        surveyor = cls(predictor)
        extractor: Any = predictor.model.backbone
        # Below a pyramid, whose maps are made to tell places apart rather than pictures.
        extractor = getattr(extractor, "backbone", extractor)
        handle = extractor.register_forward_hook(surveyor._keep)
        try:
            yield surveyor
        finally:
            handle.remove()

    def __call__(self, pictures: Sequence[Picture]) -> list[Seen]:
        """What the model makes of each, in their order; pictures as a `Predictor` takes them."""
        return self.predictor.apply(pictures, self._see)

    def _keep(self, module: object, given: object, maps: dict[str, Tensor]) -> None:
        self._maps = list(maps.values())[-1]

    def _see(self, found: Any, batch: Batch) -> list[Seen]:
        assert self._maps is not None, "the backbone was not called"
        values = uncertainties(found, batch, self._calibration)
        (features,) = fetch(pooled(self._maps, batch))
        return [Seen(*row) for row in zip(values.tolist(), features.numpy(), strict=True)]


def pooled(maps: Tensor, batch: Batch) -> Tensor:
    """float32 (B, C): means of `maps` (B, C, h, w) over the valid part of each image, of length 1."""
    inside = cells_inside(batch.sizes, maps.shape[2:], batch.images.shape[2:])[:, None].float()
    means = (maps.float() * inside).sum((2, 3)) / inside.sum((2, 3))
    return torch.nn.functional.normalize(means, dim=1)
