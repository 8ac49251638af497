"""The report of a training or an evaluation that has just ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.data.loading.collate import batch_images
from tasks.harness.task import Task
from tasks.report.build import Findings, write_report
from tasks.report.results import results_of
from tasks.zoo.registry import lookup
from tasks.zoo.task_specs import TASK_SPECS


def report(folder: Path, task: Task, split: Any, split_name: str) -> None:
    """Writes report.html and report.json of the last validation or test of `task`, on `split`, into `folder`."""
    found = results_of(task.metric)
    write_report(folder, findings_of(task, split, split_name, found, task.numbers, task.intervals))


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
