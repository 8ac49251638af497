"""`tune`: fits a model's thresholds and the calibration of its scores on a split, and stores them in its file."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.sources import Source, SplitName
from tasks.harness.evaluate import evaluate
from tasks.harness.reporter import Reporter
from tasks.harness.settings import EvaluateSettings
from tasks.metrics.error_split import error_split
from tasks.metrics.operating_point import KEY, OperatingPoint, fit_operating_point
from tasks.metrics.thresholds import Goal, check_goal
from tasks.report.objects import make_thresholds
from tasks.report.results import results_of
from tasks.zoo.model_file import find_model, load_model, save_model


def tune(
    model: str | Path,
    data: Source[Any],
    *,
    split: SplitName = "val",
    goal: Goal = "f1",
    wanted: float = 0.9,
    out: str | Path | None = None,
    settings: EvaluateSettings | None = None,
    reporter: Reporter | None = None,
) -> OperatingPoint:
    """Fits on `split`, which the model must not have learnt from, and writes the model file `out`, by default in place.

    Weights and AP stay the same to the bit: evaluation goes by the network's own scores.

    Raises:
        ValueError: the file is no model file, or its task finds no objects.
    """
    check_goal(goal, wanted)
    reporter = reporter or Reporter()
    path = find_model(Path(model))
    if path.suffix != ".safetensors":
        raise ValueError(
            f"{path} is not a model file; thresholds are stored in model.safetensors, which a training leaves when it "
            "has ended"
        )
    place = path if out is None else Path(out)
    if place.suffix != ".safetensors" or place.is_dir() or not place.parent.is_dir():
        raise ValueError(
            f"out={out} cannot be written; give the name of a model file, FILE.safetensors, in a folder that is there"
        )
    network = load_model(path)
    if network.header.task not in ("detection", "instance_segmentation"):
        raise ValueError(
            f"{path} is a model for task={network.header.task}, which has no thresholds; tuning works where objects "
            "are found (task=detection or task=instance_segmentation)"
        )
    point = fit(path, data, split, goal, wanted, settings, reporter)
    order = np.argsort(network.header.category_ids)
    by_label = np.empty(len(order))
    by_label[order] = point.thresholds
    point = replace(point, thresholds=by_label)
    network.header.provenance[KEY] = point.to_dict()
    save_model(place, network, network.header)
    return point


def fit(
    path: Path,
    data: Source[Any],
    split: SplitName,
    goal: Goal,
    wanted: float,
    settings: EvaluateSettings | None,
    reporter: Reporter,
) -> OperatingPoint:
    """The operating point, classes in order of their category ids."""
    found = evaluate(path, data, split=split, settings=settings, reporter=reporter)
    results = results_of(found.results)["objects"][-1]
    if not len(results.truth.images):
        raise ValueError(f"the {split} split has no objects to tune on; give another split")
    errors = error_split(results.truth, results.found, results.matches)
    point = fit_operating_point(results.matches, errors, make_thresholds(results, errors), goal, wanted)
    return replace(point, about={**point.about, "split": split, "images": results.truth.num_images})


def in_words(point: OperatingPoint, class_names: list[str]) -> str:
    """A line for each class, and what changes."""
    about = point.about
    width = max(map(len, class_names))
    lines = [
        f" {name:<{width}}  {value:.2f}" for name, value in zip(class_names, point.thresholds, strict=True)
    ]
    return "\n".join(
        [
            f"Thresholds for goal={about['goal']}, on {about['images']} images of {about['split']}",
            *lines,
            f"F1 (mean over classes) {about['f1_at_half']:.3f} at 0.5 for all, {about['f1']:.3f} at these",
            f"calibration error {about['calibration_error_before']:.3f}, {about['calibration_error']:.3f} calibrated",
        ]
    )
