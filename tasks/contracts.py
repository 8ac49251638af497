"""What passes between the parts: `Batch`, what a network finds, and what a `Model` and a `Metric` are.

Legend, used in every file of `tasks`:
    B  images of a batch        G  most objects of any image of the batch (rows of padding included)
    N  objects of one image     D  most detections of any image of the batch (padding included)
    K  classes                  boxes are xyxy in absolute pixels, x to the right, y down, (0, 0) the
                                outer corner of the first pixel; labels are 0 … K-1, no background
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from tasks.preprocessing import Preprocessing


@dataclass
class Batch:
    """Images padded to a common size with their targets: few large tensors, because each tensor that
    crosses processes costs about 0.2 ms whatever its size."""

    images: Tensor
    """uint8 (B, 3, H, W), RGB, zero below and to the right of the valid area."""
    sizes: Tensor
    """int64 (B, 2): valid (height, width) of each image."""
    original_sizes: Tensor
    """int64 (B, 2): (height, width) before resizing."""
    image_ids: Tensor
    """int64 (B,); on the CPU wherever the others are, because only the host reads them."""
    boxes: Tensor
    """float32 (B, G, 4) in pixels of `images`; rows past an image's objects are zero."""
    labels: Tensor
    """int64 (B, G); -1 past an image's objects."""
    is_crowd: Tensor
    """bool (B, G)."""
    mask_pixels: Tensor | None = None
    """uint8 (total,): the bitmaps of all objects one after another, row by row, where the task is instance
    segmentation; full-size masks of many objects would be a hundred times as large."""
    mask_places: Tensor | None = None
    """int64 (B, G, 5): where each bitmap begins in `mask_pixels`, and its left, top, width and height in pixels of
    `images`; width 0 where there is no mask."""
    class_ids: Tensor | None = None
    """int64 (B,): the class of each whole image, where the task is classification."""
    class_weights: Tensor | None = None
    """float32 (B, K), rows that sum to 1: the share of each class in images that mixup or cutmix mixed."""
    class_maps: Tensor | None = None
    """uint8 (B, H, W): the class of each pixel of `images`, 0 … K-1, or `IGNORE_LABEL`, as outside each valid
    area, where the task is semantic segmentation."""
    padded_sizes: tuple[tuple[int, int], ...] | None = None
    """The (height, width) that each image alone would be padded to; None where that is the size of `images` for all
    of them."""

    def __len__(self) -> int:
        return len(self.images)

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device, not waited for where it comes from page-locked memory. Lightning calls
        this."""
        if self.images.device == torch.device(device):
            return self
        is_pinned = self.images.is_pinned()
        moved = self._map(lambda tensor: tensor.to(device, non_blocking=is_pinned))
        return replace(moved, image_ids=self.image_ids)

    def pin_memory(self) -> Self:
        """The same batch in page-locked memory. `DataLoader(pin_memory=True)` calls this."""
        return self._map(lambda tensor: tensor.pin_memory())

    def select(self, *rows: int) -> Self:
        """The batch of the images in these rows alone, padded as they are."""
        sizes = self.padded_sizes
        return replace(
            self,
            padded_sizes=None if sizes is None else tuple(sizes[row] for row in rows),
            **{
                name: torch.stack([value[row] for row in rows])
                for name, value in vars(self).items()
                if isinstance(value, Tensor) and name != "mask_pixels"  # of all images; places say whose
            },
        )

    def alike(self) -> list[tuple[list[int], Self]]:
        """The batch in parts, each of images that alone would be padded to one size and padded to that, with the rows
        that they have here.

        What a network says of an image depends on its padding: convolutions and norms see it. In such parts an
        image has what it has alone, whatever else is in the batch.
        """
        if self.padded_sizes is None:
            return [(list(range(len(self))), self)]
        rows: dict[tuple[int, int], list[int]] = {}
        for row, size in enumerate(self.padded_sizes):
            rows.setdefault(size, []).append(row)
        parts = []
        for (height, width), of_size in rows.items():
            part = self.select(*of_size)
            part.images = part.images[..., :height, :width].contiguous(memory_format=torch.channels_last)
            part.class_maps = None if part.class_maps is None else part.class_maps[:, :height, :width]
            part.padded_sizes = None
            parts.append((of_size, part))
        return parts

    def _map(self, function) -> Self:
        return replace(self, **{k: function(v) for k, v in vars(self).items() if isinstance(v, Tensor)})


@dataclass
class Detections:
    """Boxes found in the images of one batch, best first; rows past an image's detections are padding."""

    boxes: Tensor
    """float32 (B, D, 4) xyxy, in pixels of the batch's images, or of the originals after `to_original`."""
    scores: Tensor
    """float32 (B, D) in 0 … 1, descending; 0 for padding."""
    labels: Tensor
    """int64 (B, D); -1 for padding."""
    masks: Tensor | None = None
    """float32 (B, D, S, S) in 0 … 1: probability that the object is there, on a grid over its box, where the task
    is instance segmentation."""

    def to_original(self, sizes: Tensor, original_sizes: Tensor) -> "Detections":
        """The same detections in pixels of the original images.

        `sizes` and `original_sizes` are the batch's, (B, 2) as (height, width).
        """
        scale = (original_sizes / sizes).flip(1).repeat(1, 2)[:, None]  # (B, 1, 4) as x, y, x, y
        return replace(self, boxes=self.boxes * scale.to(self.boxes))


@dataclass
class Classification:
    """What the images of one batch show, each as a whole."""

    logits: Tensor
    """float32 (B, K): scores before softmax."""

    def probabilities(self) -> Tensor:
        """float32 (B, K), rows that sum to 1."""
        return self.logits.softmax(dim=1)


@dataclass
class PixelScores:
    """What each pixel of the images of one batch shows, at the network's own resolution."""

    logits: Tensor
    """float (B, K, h, w): scores before softmax; the h x w cells cover the batch's images evenly."""
    image_size: tuple[int, int]
    """(H, W) of the batch's images, padding included."""


class Model(nn.Module):
    """A network of any task. Each method has one meaning whatever `.training` says; calling predicts."""

    backbone: nn.Module
    """Images to feature maps, with `spec` as `backbones` gives it; its own rate in the optimiser."""
    preprocessing: Preprocessing
    """How pixels reach the network."""
    has_static_graph: bool = False
    """Whether a training step does the same with every batch, whatever is in it."""
    header: Any
    """What a model file says of the network (`harness.model_file.Header`); set by whoever builds it."""

    def features(self, batch: Batch) -> Any:
        """Everything that losses and predictions share, computed once: feature maps by level, or of a detector
        what its proposal network or its dense heads say of them. Each model has its own type."""
        raise NotImplementedError

    def losses(self, features: Any, batch: Batch) -> dict[str, Tensor]:
        """Scalar losses by name; their sum is what training minimises."""
        raise NotImplementedError

    def predictions(self, features: Any, batch: Batch) -> Any:
        """Predictions in pixels of the batch's images. Reads no targets."""
        raise NotImplementedError

    def class_layers(self) -> dict[str, int]:
        """Layers whose outputs belong to classes, by name: n outputs for each class, in the order of the
        labels, then those of no class (background). Starting from another model goes by them."""
        return {}

    def forward(self, batch: Batch) -> Any:
        """`predictions` from fresh features."""
        return self.predictions(self.features(batch), batch)


class Metric(Protocol):
    """Numbers over a whole data set. Counts every image exactly once, over all ranks, or fails."""

    def update(self, predictions: Any, batch: Batch) -> None:
        """Adds the predictions (in original pixels) for the images of one batch."""
        ...

    def compute(self) -> dict[str, float]:
        """Gathers over ranks and returns the numbers by name."""
        ...

    def reset(self) -> None:
        """Forgets every image seen."""
        ...
