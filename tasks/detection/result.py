"""What a detector finds in single pictures: for programs, as JSON, in words and drawn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from torch import Tensor

from tasks.contracts import Batch, Detections
from tasks.data.annotations.results import to_result
from tasks.device_copies import fetch
from tasks.visualization.boxes import draw_detections
from tasks.visualization.result import DrawablePrediction


@dataclass
class Objects:
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

    def above(self, threshold: float) -> Self:
        """Those that score at least `threshold`."""
        return self.select(self.scores >= threshold)

    def select(self, keep: np.ndarray) -> Self:
        """Those for which `keep` (N,) is true."""
        names = [name for name, kept in zip(self.class_names, keep, strict=True) if kept]
        own = {"boxes": self.boxes[keep], "scores": self.scores[keep], "labels": self.labels[keep]}
        return replace(self, **own, class_names=names)

    def placed(self, left: int, top: int, size: tuple[int, int]) -> Self:
        """The same objects in pixels of a picture of `size` (height, width), of which theirs is the part that begins
        at (`left`, `top`)."""
        offset = np.array((left, top, left, top), np.float32)
        return replace(self, boxes=self.boxes + offset)

    @classmethod
    def gathered(cls, parts: "Sequence[Objects]", groups: Sequence[Sequence[int]]) -> "Objects":
        """One object of each group of rows of all `parts` together: the best of them, its box around them all."""
        boxes, scores, labels = (
            np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "scores", "labels")
        )
        names = [name for part in parts for name in part.class_names]
        best = [max(rows, key=lambda row: scores[row]) for rows in groups]
        around = [(*boxes[rows, :2].min(axis=0), *boxes[rows, 2:].max(axis=0)) for rows in map(list, groups)]
        return Objects(
            np.array(around, np.float32).reshape(-1, 4),
            scores[best],
            labels[best],
            [names[row] for row in best],
        )

    def draw(self, image: np.ndarray) -> np.ndarray:
        """`image` (uint8 (H, W, 3)) with boxes, names and scores."""
        names = self.names_by_label()
        return draw_detections(image, self.boxes, self.labels, self.scores, names, score_threshold=0.0)

    def to_drawable(self) -> DrawablePrediction:
        return DrawablePrediction(self.boxes, self.labels, self.scores)

    def names_by_label(self) -> list[str]:
        """The names of the classes found, each at the position of its label."""
        names = dict(zip(self.labels.tolist(), self.class_names, strict=True))
        return [names.get(label, "") for label in range(max(names, default=-1) + 1)]

    def to_dict(self) -> dict[str, Any]:
        """The objects, for a JSON file; boxes are xyxy."""
        columns = (self.class_names, self.labels.tolist(), self.scores.tolist(), self.boxes.tolist())
        keys = ("class", "label", "score", "box")
        return {"objects": [dict(zip(keys, row, strict=True)) for row in zip(*columns, strict=True)]}

    def to_coco(self, image_id: int, category_ids: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """The objects in COCO's format of results; `category_ids` are the data set's own by label, None for the labels.
        The header of a model file has both (`predictor.header.category_ids`)."""
        return [
            to_result(item, image_id, item["label"] if category_ids is None else category_ids[item["label"]])
            for item in self.to_dict()["objects"]
        ]

    def to_supervision(self) -> Any:
        """`supervision.Detections`, names under `data["class_name"]`."""
        from supervision import Detections as SupervisionDetections

        return SupervisionDetections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            data={"class_name": np.array(self.class_names, str)},
        )

    def to_torchmetrics(self) -> dict[str, Tensor]:
        """What `torchmetrics.detection.MeanAveragePrecision` takes of one picture."""
        columns = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        import torch  # here, as the program beside an exported model has none

        return {name: torch.from_numpy(column.copy()) for name, column in columns.items()}

    def to_fiftyone(self, size: tuple[int, int]) -> Any:
        """`fiftyone.Detections` of a picture of `size` (height, width)."""
        from fiftyone import Detection  # pyright: ignore[reportMissingImports]
        from fiftyone import Detections as FiftyOneDetections  # pyright: ignore[reportMissingImports]

        scale = np.array((size[1], size[0]) * 2, np.float64)
        corners = self.boxes / scale
        corners[:, 2:] -= corners[:, :2]
        return FiftyOneDetections(
            detections=[
                Detection(label=name, bounding_box=box, confidence=score, **more)
                for name, box, score, more in zip(
                    self.class_names,
                    corners.tolist(),
                    self.scores.tolist(),
                    self._fiftyone_masks(),
                    strict=True,
                )
            ]
        )

    def _fiftyone_masks(self) -> list[dict[str, np.ndarray]]:
        """What is known of each object beside its box."""
        return [{} for _ in range(len(self))]

    def summary(self) -> str:
        """The count of each class, most frequent first."""
        counts = {name: self.class_names.count(name) for name in self.class_names}
        ordered = sorted(counts.items(), key=lambda item: -item[1])
        return ", ".join(f"{count} {name}" for name, count in ordered) or "nothing"


def predicted_results(found: Detections, batch: Batch, class_names: list[str]) -> list[Objects]:
    """A result for each picture of the batch, in its original pixels, of what is found in those of the batch."""
    return results(found.to_original(batch.sizes, batch.original_sizes), class_names)


def results(found: Detections, class_names: list[str]) -> list[Objects]:
    """A result for each picture, in its original pixels as `found` is."""
    columns = fetch(found.boxes.float(), found.scores.float(), found.labels)
    objects = []
    for boxes, scores, labels in zip(*(column.numpy() for column in columns), strict=True):
        keep = labels >= 0
        names = [class_names[label] for label in labels[keep]]
        objects.append(Objects(boxes[keep], scores[keep], labels[keep], names))
    return objects
