"""What a classifier says of single pictures: for programs, as JSON, in words and drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from tasks.contracts import Batch, Classification
from tasks.device_copies import fetch
from tasks.visualization.bars import NUM_SHOWN, draw_best
from tasks.visualization.result import DrawablePrediction


@dataclass
class ClassScores:
    """The K classes of one picture, the most probable first."""

    probabilities: np.ndarray
    """(K,) float32, descending, summing to 1."""
    labels: np.ndarray
    """(K,) int64: positions in the model's `class_names`."""
    class_names: list[str]
    """(K,) the name of each."""

    def __len__(self) -> int:
        return len(self.labels)

    def above(self, threshold: float) -> "ClassScores":
        """All of it: a classifier always names its best classes."""
        return self

    def draw(self, image: np.ndarray) -> np.ndarray:
        """`image` (uint8 (H, W, 3)) above a bar for each of the best classes."""
        return draw_best(image, self.class_names, self.labels, self.probabilities)

    def to_drawable(self) -> DrawablePrediction:
        return DrawablePrediction(caption=f"{self.class_names[0]} {self.probabilities[0]:.2f}")

    def to_dict(self) -> dict[str, Any]:
        """The best classes, for a JSON file."""
        best = zip(self.class_names, self.labels.tolist(), self.probabilities.tolist(), strict=True)
        return {
            "classes": [
                {"class": name, "label": label, "probability": probability}
                for name, label, probability in list(best)[:NUM_SHOWN]
            ]
        }

    def to_supervision(self) -> Any:
        """`supervision.Classifications`."""
        from supervision import Classifications

        return Classifications(class_id=self.labels, confidence=self.probabilities)

    def to_fiftyone(self) -> Any:
        """`fiftyone.Classification` of the best class, with the logarithms of all probabilities by label."""
        from fiftyone import Classification as FiftyOneClassification  # pyright: ignore[reportMissingImports]

        logits = np.empty(len(self), np.float32)
        logits[self.labels] = np.log(self.probabilities.clip(np.finfo(np.float32).tiny))
        best = float(self.probabilities[0])
        return FiftyOneClassification(label=self.class_names[0], confidence=best, logits=logits)

    def summary(self) -> str:
        """The best class and its probability."""
        return f"{self.class_names[0]} ({self.probabilities[0]:.1%})"


def predicted_results(found: Classification, batch: Batch, class_names: list[str]) -> list[ClassScores]:
    """A result for each picture of the batch."""
    shares, labels = fetch(*found.probabilities().sort(dim=1, descending=True, stable=True))
    return [
        ClassScores(share, label, [class_names[k] for k in label])
        for share, label in zip(shares.numpy(), labels.numpy(), strict=True)
    ]
