"""`score_results`: the numbers of a file of detections, whoever made it."""

import math
from pathlib import Path
from typing import Any

from tasks.data.formats.coco_results import federated_truth, read_results
from tasks.data.sources import Source, SplitName
from tasks.files import write_json
from tasks.folders import claim_folder
from tasks.harness.evaluate import Evaluation
from tasks.harness.reporter import Reporter
from tasks.harness.session import files_in
from tasks.harness.start import check_data
from tasks.metrics.federated import federated_numbers
from tasks.metrics.results_file import ResultsMetric
from tasks.metrics.table import coco_table


def score_results(
    file: str | Path,
    data: Source[Any],
    *,
    split: SplitName = "val",
    backend: str = "auto",
    folder: str | Path | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Scores a file in COCO's format of results on a split of `data`: its boxes, and its masks where it has some.

    Numbers are pycocotools' on the same file; where the annotations say which classes are absent from an image and
    which are not annotated exhaustively, as LVIS's do, they are LVIS's. A mask counts with its own area, as in
    detectron2; COCO's code takes that of the box where an item has both.

    Args:
        file: JSON, also an annotation file with scores as `vertebra predict format=coco` writes it.
        data: a data set (`tasks.data.open`) with the images and classes of the file.
        split: train, val or test.
        backend: auto, hotcoco or pycocotools.
        folder: a new one for metrics.json; None for none.
        reporter: where it says what it finds.

    Raises:
        ValueError, FileNotFoundError, FileExistsError: with one sentence, for whatever the user can mend.
    """
    reporter = reporter or Reporter()
    source = check_data(data).with_boxes()
    annotations = source.split(split).annotations
    found = read_results(Path(file), annotations)
    masks = found.masks
    if masks is not None:
        with_masks = source.with_masks().split(split).annotations
        if with_masks.has_masks:
            annotations = with_masks
        else:
            masks = None
            reporter.say(f"note: the {split} split has no masks; those of {file} are not scored")
    metric = ResultsMetric(
        annotations, found.images, found.labels, found.boxes, found.scores, masks, backend=backend
    )
    truth = federated_truth(source, split, annotations)
    if truth is None:
        numbers, words = metric.compute(), None
    else:
        numbers = federated_numbers(truth, found.records(annotations))
        if masks is not None:
            of_masks = federated_numbers(truth, found.records(annotations, masks=True), masks=True)
            numbers |= {f"mask_{name}": value for name, value in of_masks.items()}
        words = federated_in_words(numbers)
    place = None if folder is None else claim_folder(Path(folder), "run_dir")
    reporter.say(f"{len(found.scores)} detections on {len(annotations)} images of the {split} split\n")
    reporter.result(words or in_words(numbers, metric.backend_used))
    if place is not None:
        write_json(place / "metrics.json", numbers)
        reporter.result(f"\n{files_in(place)}")
    return Evaluation(numbers, metric, folder=place)


def federated_in_words(numbers: dict[str, float]) -> str:
    """A line for each of LVIS's numbers, boxes and masks side by side; -1 where no object counts."""
    names = [name for name in numbers if "/" not in name and not name.startswith("mask_")]
    columns = ("", "mask_") if "mask_AP" in numbers else ("",)
    rows = [
        f" {name:<12}"
        + "".join(f"{-1.0 if math.isnan(v := numbers[c + name]) else v:>8.3f}" for c in columns)
        for name in names
    ]
    title = f" {'':<12}{'boxes':>8}{'masks':>8}" if len(columns) > 1 else f" {'':<12}{'boxes':>8}"
    return "\n".join([title, *rows, "", "Scored by hotcoco, by LVIS's federated rules"])


def in_words(numbers: dict[str, float], backend: str) -> str:
    """COCO's table of boxes, and of masks where there are any."""
    boxes = {name: value for name, value in numbers.items() if not name.startswith("mask_")}
    masks = {name.removeprefix("mask_"): v for name, v in numbers.items() if name.startswith("mask_")}
    table = f"Boxes\n{coco_table(boxes)}\n\nMasks\n{coco_table(masks)}" if masks else coco_table(boxes)
    return f"{table}\n\nScored by {backend}"
