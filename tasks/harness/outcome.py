"""What a training or an evaluation leaves when it has ended: numbers, results, the model file, the report."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.datamodule import DataModule
from tasks.data.loading.collate import batch_images
from tasks.data.splits import SplitName
from tasks.files import write_json
from tasks.harness.task import Task
from tasks.report.build import Findings, write_report
from tasks.report.results import results_of
from tasks.zoo.model_file import save_model
from tasks.zoo.registry import lookup
from tasks.zoo.task_specs import TASK_SPECS


def write_outcome(
    folder: Path, task: Task, data: DataModule, split: SplitName, *, model_file: bool = True
) -> None:
    """Writes the numbers, the results, the model and the report of `task` as its last validation or test, of a `split`
    of `data`, left them. Scores of some images alone have no report."""
    write_json(folder / "metrics.json", {**task.numbers, **flat_intervals(task)})
    if task.metric is not None:
        task.write_results(folder)
        task.write_outcomes(folder, split)
    if model_file:
        task.header.metrics = dict(task.numbers)
        save_model(folder / "model.safetensors", task.model, task.header)
    if task.numbers and not task.scores_some:
        found = results_of(task.metric)
        findings = findings_of(task, data.split(split), split, found, task.numbers, task.intervals)
        write_report(folder, findings)


def flat_intervals(task: Task) -> dict[str, float]:
    """The ends of the intervals under `interval_low/<name>` and `interval_high/<name>`, and the number of `images`."""
    if not task.intervals:
        return {}
    ends = {
        f"interval_{end}/{name}": both[i]
        for name, both in task.intervals.items()
        for i, end in enumerate(("low", "high"))
    }
    return {"images": task.num_images, **ends}


def findings_of(
    task: Task, split: Any, split_name: str, found: dict[str, Any], numbers: Any, intervals: Any
) -> Findings:
    """What the page shows of `found`, as `results_of` or files give it."""
    header = task.header
    title = f"{header.model['name']} on {header.model['backbone']['name']}, {header.task.replace('_', ' ')}"
    predict = class_map_of(task) if "pixels" in found else None
    address = TASK_SPECS[header.task].explain if "objects" in found else None
    explain = None if address is None else lookup({header.task: address}, "task", header.task)(task.model)
    return Findings(title, split_name, numbers, intervals, split, predict=predict, explain=explain, **found)


def class_map_of(task: Task) -> Callable[[np.ndarray], np.ndarray]:
    """The class map that the model of `task` makes of an image (H, W, 3)."""
    model = task.model

    @torch.inference_mode()
    def predict(image: np.ndarray) -> np.ndarray:
        was_training = model.training
        batch = batch_images([image], model.preprocessing).to(next(model.parameters()).device)
        class_map = task.to_original(model.eval()(batch), batch)[0].cpu().numpy()
        model.train(was_training)
        return class_map

    return predict
