"""`vertebra report RUN`: the report of a training, made anew from what its folder holds."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.nodes import as_list, whole_number
from tasks.cli.output import Found, say_result
from tasks.cli.run_config import load_config
from tasks.data.datamodule import DataModule
from tasks.harness.environment import fingerprint
from tasks.harness.outcome import findings_of
from tasks.harness.task import Task
from tasks.metrics.bootstrap import intervals
from tasks.metrics.coco import CocoMetric
from tasks.metrics.instance_segmentation import InstanceSegmentationMetric
from tasks.metrics.outcomes import (
    FILE,
    AnyOutcomes,
    LabelOutcomes,
    ObjectOutcomes,
    read_outcomes,
    write_outcomes,
)
from tasks.preprocessing import Preprocessing
from tasks.report.build import write_report
from tasks.report.results import results_in
from tasks.zoo.model_file import load_model
from tasks.zoo.registry import TASKS, lookup


def report(config: DictConfig) -> Found:
    """Writes report.html and report.json into each of `config.runs`."""
    pictures = whole_number(config, "pictures")
    folders = [Path(str(run)) for run in as_list(config.runs)]
    for folder in folders:
        started = time.perf_counter()
        report_of(folder, pictures)
        say_result(f"{folder}: report.html, report.json; took {time.perf_counter() - started:.1f} s")
    return Found({"reports": [folder / "report.json" for folder in folders]})


def report_of(folder: Path, num_pictures: int) -> None:
    """The report of the run in `folder`; of one that was killed, what there is."""
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"{folder} is not the folder of a training (it has no config.yaml); the report of an evaluation is made by "
            "`vertebra evaluate` itself"
        )
    if not ((folder / "metrics.json").is_file() and (folder / "model.safetensors").is_file()):
        write_report(folder, None)
        return
    source = data_of(load_config(folder / "config.yaml"))
    model = load_model(folder / "model.safetensors")
    task: Task = lookup(TASKS, "task", model.header.task)(model)
    data = DataModule(source, Preprocessing(**model.header.preprocessing), **task.data_options)
    split = data.split("val")
    metric: Any = task.build_metric(split.annotations)
    numbers = {
        name: value
        for name, value in json.loads((folder / "metrics.json").read_text(encoding="utf-8")).items()
        if not name.startswith("interval_") and name != "images"
    }
    metric = metric.coco if isinstance(metric, InstanceSegmentationMetric) else metric
    outcomes: AnyOutcomes
    if isinstance(metric, CocoMetric):
        objects = results_in(folder, metric)
        matches = {"mask_" * (r.name == "masks"): r.matches for r in objects}
        found: dict[str, Any] = {"objects": objects}
        outcomes = ObjectOutcomes(matches, objects[0].class_names, metric.max_detections)
    elif model.header.task == "classification":
        outcomes = labels_in(folder, split.annotations)
        found = {"labels": outcomes}
    else:
        scored = read_outcomes(folder)
        outcomes = scored.outcomes
        found = {"pixels": outcomes, "confusion": confusion_in(folder)}
    if not (folder / FILE).is_file():
        ids = np.sort(split.annotations.image_ids)
        write_outcomes(folder, outcomes, ids, data=fingerprint(split.annotations), split="val")
    findings = findings_of(task, split, "val", found, numbers, intervals(outcomes))
    write_report(folder, findings, num_pictures=num_pictures)


def labels_in(folder: Path, annotations: Any) -> LabelOutcomes:
    """What classes.json says of each image, in order of ids."""
    entries = sorted(
        json.loads((folder / "classes.json").read_text(encoding="utf-8")), key=lambda e: e["image_id"]
    )
    labels = {name: label for label, name in enumerate(annotations.class_names)}
    order = np.argsort(annotations.image_ids)
    if [entry["image_id"] for entry in entries] != annotations.image_ids[order].tolist():
        raise ValueError(
            f"{folder / 'classes.json'} is about other images than the data; evaluate its model again"
        )
    best = np.array([[labels[b["class"]] for b in entry["best"]] for entry in entries], np.int64)
    confidences = np.array([entry["best"][0]["probability"] for entry in entries], np.float32)
    return LabelOutcomes(annotations.labels[order], best, confidences, annotations.class_names)


def confusion_in(folder: Path) -> np.ndarray | None:
    """Pixels as confusion.csv has them."""
    path = folder / "confusion.csv"
    if not path.is_file():
        return None
    rows = path.read_text(encoding="utf-8").splitlines()[1:]
    return np.array([[int(cell) for cell in row.rsplit(",", len(rows))[1:]] for row in rows], np.int64)
