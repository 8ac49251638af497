"""What an instance segmenter finds in single pictures: for programs, as JSON, in words and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from PIL import Image
from torch import Tensor

from tasks.contracts import Batch, Detections
from tasks.detection import result as detection
from tasks.detection.result import Objects
from tasks.device_copies import fetch
from tasks.files import write_whole
from tasks.metrics.run_lengths import bitmaps, encode
from tasks.targets import ObjectMask
from tasks.visualization.masks import draw_instances
from tasks.visualization.result import MIN_SCORE, DrawablePrediction


@dataclass
class Instances(Objects):
    """The N objects found in one picture with their outlines, best first."""

    bitmaps: list[ObjectMask]
    """N masks, each inside a rectangle of the picture that holds all of it."""
    size: tuple[int, int]
    """(height, width) of the picture."""

    @property
    def masks(self) -> np.ndarray:
        """Bool (N, height, width): the masks as large as the picture; made anew at each call."""
        masks = np.zeros((len(self), *self.size), bool)
        for mask, (left, top, bitmap) in zip(masks, self.bitmaps, strict=True):
            mask[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
        return masks

    def select(self, keep: np.ndarray) -> Self:
        kept = [mask for mask, is_kept in zip(self.bitmaps, keep, strict=True) if is_kept]
        return replace(super().select(keep), bitmaps=kept)

    def placed(self, left: int, top: int, size: tuple[int, int]) -> Self:
        moved = [ObjectMask(left + mask.left, top + mask.top, mask.bitmap) for mask in self.bitmaps]
        return replace(super().placed(left, top, size), bitmaps=moved, size=size)

    @classmethod
    def gathered(cls, parts: "Sequence[Objects]", groups: Sequence[Sequence[int]]) -> "Instances":
        """As `Objects.gathered`; a mask is the union of those of its group."""
        instances = [part for part in parts if isinstance(part, Instances)]
        masks = [mask for part in instances for mask in part.bitmaps]
        joined = [union([masks[row] for row in rows]) for rows in groups]
        return Instances(**vars(Objects.gathered(parts, groups)), bitmaps=joined, size=instances[0].size)

    def draw(self, image: np.ndarray) -> np.ndarray:
        """`image` (uint8 (H, W, 3)) with masks, boxes, names and scores."""
        return draw_instances(
            image, self.bitmaps, self.boxes, self.labels, self.scores, self.names_by_label()
        )

    def to_drawable(self) -> DrawablePrediction:
        """What is fairly certain; of each pixel the class of the best object there."""
        clear = self.above(MIN_SCORE)
        class_map = np.full(self.size, -1)
        for mask, label in zip(reversed(clear.bitmaps), clear.labels[::-1], strict=True):
            area = class_map[mask.top : mask.top + len(mask.bitmap), mask.left :][:, : mask.bitmap.shape[1]]
            area[mask.bitmap.astype(bool)] = label
        return DrawablePrediction(clear.boxes, clear.labels, clear.scores, class_map)

    def to_supervision(self) -> Any:
        detections = super().to_supervision()
        detections.mask = self.masks
        return detections

    def to_torchmetrics(self) -> dict[str, Tensor]:
        import torch  # here, as the program beside an exported model has none

        return {**super().to_torchmetrics(), "masks": torch.from_numpy(self.masks)}

    def to_fiftyone(self, size: tuple[int, int] | None = None) -> Any:
        return super().to_fiftyone(self.size if size is None else size)

    def _fiftyone_masks(self) -> list[dict[str, np.ndarray]]:
        height, width = self.size
        low = np.floor(self.boxes[:, :2]).clip(0).astype(int)
        high = np.ceil(self.boxes[:, 2:]).clip(0, (width, height)).astype(int)
        return [
            {"mask": mask[top:bottom, left:right]}
            for mask, (left, top), (right, bottom) in zip(
                self.masks, low.tolist(), high.tolist(), strict=True
            )
        ]

    def write_masks(self, folder: Path, stem: str) -> dict[str, str]:
        """Writes `<stem>.instances.png`, 16 bits a pixel: the number of the object there, from 1 in their order, and 0
        where there is none. Of objects that overlap the best one has the pixel; run lengths have all of each."""
        numbers = np.zeros(self.size, np.uint16)
        for number in range(len(self), 0, -1):
            left, top, bitmap = self.bitmaps[number - 1]
            area = numbers[top : top + bitmap.shape[0], left : left + bitmap.shape[1]]
            area[bitmap.astype(bool)] = number
        name = f"{stem}.instances.png"
        with write_whole(folder / name) as partial:
            Image.fromarray(numbers).save(partial, format="PNG")
        return {"instances": name}

    def to_dict(self) -> dict[str, Any]:
        """The objects, for a JSON file; boxes are xyxy, masks COCO's compressed run lengths."""
        report = super().to_dict()
        run_lengths = encode(self.bitmaps, *self.size)
        for entry, counts in zip(report["objects"], run_lengths, strict=True):
            entry["segmentation"] = {"size": list(self.size), "counts": counts.decode()}
        return report


def union(masks: Sequence[ObjectMask]) -> ObjectMask:
    """The pixels of any of `masks`, of which there is at least one."""
    if len(masks) == 1:
        return masks[0]
    left, top = min(mask.left for mask in masks), min(mask.top for mask in masks)
    right = max(mask.left + mask.bitmap.shape[1] for mask in masks)
    bottom = max(mask.top + mask.bitmap.shape[0] for mask in masks)
    bitmap = np.zeros((bottom - top, right - left), np.uint8)
    for x, y, part in masks:
        bitmap[y - top : y - top + part.shape[0], x - left : x - left + part.shape[1]] |= part
    return ObjectMask(left, top, bitmap)


def predicted_results(found: Detections, batch: Batch, class_names: list[str]) -> list[Instances]:
    """A result for each picture of the batch, in its original pixels, of what is found in those of the batch."""
    return results(found.to_original(batch.sizes, batch.original_sizes), batch, class_names)


def results(found: Detections, batch: Batch, class_names: list[str]) -> list[Instances]:
    """A result for each picture of the batch, in its original pixels as `found` is."""
    assert found.masks is not None, "the model predicts no masks"
    boxes, scores, labels, masks, sizes = fetch(
        found.boxes.float(), found.scores.float(), found.labels, found.masks, batch.original_sizes
    )
    instances = []
    every = detection.results(Detections(boxes, scores, labels), class_names)
    for i, (objects, (height, width)) in enumerate(zip(every, sizes.tolist(), strict=True)):
        keep = labels[i] >= 0
        own = list(bitmaps(masks[i, keep], boxes[i, keep], height, width))
        instances.append(Instances(**vars(objects), bitmaps=own, size=(height, width)))
    return instances
