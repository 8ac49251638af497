"""Box and mask AP of one pass over a data set."""

from pathlib import Path

from tasks.contracts import Batch, Detections
from tasks.device_copies import fetch
from tasks.metrics.coco import CocoMetric, MaskAnnotations
from tasks.metrics.outcomes import ObjectOutcomes
from tasks.metrics.run_lengths import bitmaps, encode


class InstanceSegmentationMetric:
    """`CocoMetric` on boxes and masks; masks become run lengths as they come, never full-size images."""

    def __init__(
        self, annotations: MaskAnnotations, *, backend: str = "auto", max_detections: int | None = None
    ):
        self.coco = CocoMetric(annotations, masks=True, backend=backend, max_detections=max_detections)

    def reset(self) -> None:
        """Forgets every image seen."""
        self.coco.reset()

    def update(self, predictions: Detections, batch: Batch) -> None:
        """Adds the detections, boxes in original pixels, of the images of one batch."""
        assert predictions.masks is not None, "the model predicts no masks"
        boxes, scores, labels, masks, sizes = fetch(
            predictions.boxes.float(),
            predictions.scores.float(),
            predictions.labels,
            predictions.masks,
            batch.original_sizes,
        )
        predictions = Detections(boxes, scores, labels)
        found = labels >= 0
        run_lengths = [
            counts
            for i, (height, width) in enumerate(sizes.tolist())
            for counts in encode(
                bitmaps(masks[i, found[i]], boxes[i, found[i]], height, width), height, width
            )
        ]
        self.coco.update(predictions, batch, run_lengths)

    def compute(self) -> dict[str, float]:
        """Numbers of the boxes, then those of the masks under `mask_AP` and so on (`CocoMetric.compute`)."""
        return self.coco.compute()

    def outcomes(self) -> ObjectOutcomes:
        """What happened on each image, for intervals and comparisons."""
        return self.coco.outcomes()

    def write_results(self, folder: Path) -> None:
        """`detections.json` with boxes and `masks.json` with masks, in COCO's result format."""
        self.coco.write_results(folder / "detections.json")
        self.coco.write_results(folder / "masks.json", masks=True)
