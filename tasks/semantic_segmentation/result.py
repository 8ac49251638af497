"""What a segmenter says of single pictures: for programs, as files, in words and drawn."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from tasks.contracts import Batch, PixelScores
from tasks.device_copies import fetch
from tasks.visualization.class_maps import draw_class_map, write_label_png
from tasks.visualization.result import DrawablePrediction

from .original_pixels import original_class_maps


@dataclass
class ClassMap:
    """The class of every pixel of one picture."""

    class_map: np.ndarray
    """uint8 (H, W) in pixels of the picture as given: positions in `class_names`."""
    class_names: list[str]
    """(K,) all classes of the model, by label."""

    def __len__(self) -> int:
        """Number of classes in the picture."""
        return len(self.shares())

    def shares(self) -> dict[str, float]:
        """Share of the picture that each class covers, by name, the largest first; none that is not there."""
        counts = np.bincount(self.class_map.ravel(), minlength=len(self.class_names))
        order = [int(label) for label in np.argsort(-counts, kind="stable") if counts[label]]
        return {self.class_names[label]: counts[label] / self.class_map.size for label in order}

    def above(self, threshold: float) -> "ClassMap":
        """All of it: every pixel has its most probable class."""
        return self

    def draw(self, image: np.ndarray) -> np.ndarray:
        """`image` (uint8 (H, W, 3)) tinted by class, above a legend."""
        return draw_class_map(image, self.class_map, self.class_names)

    def to_drawable(self) -> DrawablePrediction:
        return DrawablePrediction(class_map=self.class_map.astype(np.int64))

    def write_masks(self, folder: Path, stem: str) -> dict[str, str]:
        """Writes the labels as the palette PNG `<stem>.labels.png`; returns its name for the JSON file."""
        name = f"{stem}.labels.png"
        write_label_png(folder / name, self.class_map, self.class_names)
        return {"labels": name}

    def to_dict(self) -> dict[str, Any]:
        """The shares of the classes, for a JSON file."""
        labels = {name: label for label, name in enumerate(self.class_names)}
        return {
            "classes": [
                {"class": name, "label": labels[name], "share": float(share)}
                for name, share in self.shares().items()
            ]
        }

    def to_fiftyone(self) -> Any:
        """`fiftyone.Segmentation`; its numbers are the labels."""
        from fiftyone import Segmentation  # pyright: ignore[reportMissingImports]

        return Segmentation(mask=self.class_map)

    def summary(self) -> str:
        """The classes with their shares."""
        return ", ".join(f"{name} {share:.1%}" for name, share in self.shares().items())


def predicted_results(found: PixelScores, batch: Batch, class_names: list[str]) -> list[ClassMap]:
    """A result for each picture of the batch, in its original pixels, of what is found in those of the batch."""
    return results(original_class_maps(found, batch.sizes, batch.original_sizes), class_names)


def results(class_maps: list[Tensor], class_names: list[str]) -> list[ClassMap]:
    """A result for each picture, of the class map (H, W) of each."""
    return [ClassMap(class_map.numpy(), class_names) for class_map in fetch(*class_maps)]
