"""Our split of errors beside that of TIDE's published package, on a file of detections, in points of AP50.

    pip install --no-deps --target DIR tidecv appdirs
    PYTHONPATH=DIR python tests/peers/tide.py detections=detections.json data=voc data.root=BCCD

An empty module stands for that of its plots, for which alone it would need pandas, seaborn and another OpenCV.
Exit status 1 where a cost differs by more than `LIMIT`.
"""

import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.cli.compose import compose
from tasks.cli.data import data_of
from tasks.data.formats.coco_results import read_results
from tasks.metrics.average_precision import GroundTruth, Predictions
from tasks.metrics.error_split import error_split
from tasks.metrics.matches import match
from tasks.metrics.results_file import ResultsMetric

LIMIT = 0.1
NAMES = {
    "class": "Cls", "localisation": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg",
    "missed": "Miss", "false positives": "FalsePos", "false negatives": "FalseNeg",
}  # fmt: skip


def ours(truth: GroundTruth, found: Predictions) -> dict[str, float]:
    """AP50 and what each kind of error costs, in points."""
    split = error_split(truth, found, match(truth, found))
    return {"AP50": 100 * split.ap50, **{name: 100 * split.costs[name] for name in NAMES}}


def theirs(truth: GroundTruth, found: Predictions) -> dict[str, float]:
    """The same by the package; crowds are its regions to ignore."""
    plots: Any = types.ModuleType("tidecv.plotting")
    plots.Plotter = object
    sys.modules.setdefault("tidecv.plotting", plots)
    from tidecv import TIDE, Data  # pyright: ignore[reportMissingImports]

    objects, detections = Data("truth"), Data("found", max_dets=10**6)
    for image, category, box, is_crowd in zip(
        truth.images.tolist(), truth.categories.tolist(), truth.boxes.tolist(), truth.is_crowd, strict=True
    ):
        add = objects.add_ignore_region if is_crowd else objects.add_ground_truth
        add(image, category, box=box)
    columns = (found.images.tolist(), found.categories.tolist(), found.scores.tolist(), found.boxes.tolist())
    for image, category, score, box in zip(*columns, strict=True):
        detections.add_detection(image, category, score, box=box)
    for image in range(truth.num_images):
        objects.add_image(image, str(image))
    tide = TIDE()
    tide.evaluate(objects, detections, mode=TIDE.BOX)
    errors: Mapping[str, Any] = tide.get_all_errors()
    costs = {**errors["main"]["found"], **errors["special"]["found"]}
    return {"AP50": tide.runs["found"].ap, **{name: costs[short] for name, short in NAMES.items()}}


def main(words: list[str]) -> int:
    """Prints both; the exit status."""
    config = compose("evaluate", words)
    annotations = data_of(config).with_boxes().split(config.split).annotations
    read = read_results(Path(config.detections), annotations)
    metric = ResultsMetric(annotations, read.images, read.labels, read.boxes, read.scores)
    mine, other = ours(*metric.scored()), theirs(*metric.scored())
    for name, value in mine.items():
        print(
            f"{name:<16} ours {value:7.3f}  tidecv {other[name]:7.3f}  difference {value - other[name]:+.3f}"
        )
    return int(max(abs(value - other[name]) for name, value in mine.items()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
