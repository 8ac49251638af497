"""Predictions on a split by models none of which has learnt from what it judges: cross-validation over folds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.parts import Parts, folds
from tasks.data.sources import Source, SplitName
from tasks.harness.environment import fingerprint
from tasks.harness.evaluate import evaluate
from tasks.harness.reporter import Reporter
from tasks.harness.settings import EvaluateSettings, TrainSettings
from tasks.harness.train import train
from tasks.metrics.average_precision import Predictions
from tasks.report.objects import ObjectResults
from tasks.report.results import object_results, results_of
from tasks.zoo.model_file import load_model, read, save_model

KEY = "fold"
"""In a header's `provenance`: which part of which data a model has not learnt from."""


def train_folds(
    task: str,
    spec: Mapping[str, Any],
    settings: TrainSettings,
    source: Source[Any],
    split: SplitName,
    number: int,
    folder: Path,
    reporter: Reporter,
) -> list[Path]:
    """`number` models of one recipe, each trained on the images of `split` that are not in its fold; their files, in
    order of the folds. `folder` gets a run for each.

    Raises:
        ValueError: fewer than 2 folds, or more than images.
    """
    annotations = source.split(split).annotations
    if not 2 <= number <= len(annotations) // 2:
        raise ValueError(
            f"folds={number} must be at least 2, and leave 2 images of the {len(annotations)} in each; give another "
            "number"
        )
    files = []
    parts = folds(len(annotations), number)
    for place, held_out in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(annotations)), held_out)
        data = Parts(source, {"train": (split, rest), "val": (split, held_out)})
        spec_of = {key: value for key, value in spec.items() if key not in ("backbone", "pyramid")}
        run = train(
            task, data, model=spec_of, backbone=spec["backbone"], pyramid=spec["pyramid"], settings=settings,
            folder=folder / f"fold-{place + 1}",
        )  # fmt: skip
        if run.stopped_by is not None:
            raise KeyboardInterrupt
        model = load_model(run.model_file)
        model.header.provenance[KEY] = {
            "place": place,
            "of": number,
            "split": split,
            "data": fingerprint(annotations),
        }
        save_model(run.model_file, model, model.header)
        files.append(run.model_file)
        reporter.say(
            f"fold {place + 1} of {number}: trained on {len(rest)} images, AP {run.numbers['AP']:.3f} on the other "
            f"{len(held_out)}"
        )
    return files


def check_folds(files: Sequence[str | Path], source: Source[Any], split: SplitName) -> None:
    """Raises ValueError unless file i is the model of fold i of as many, on this split of this data."""
    known = fingerprint(source.split(split).annotations)
    for place, file in enumerate(files):
        said = read(file)[0].provenance.get(KEY)
        wanted = {"place": place, "of": len(files), "split": split, "data": known}
        if said != wanted:
            why = (
                "does not say which images it has not learnt from"
                if not isinstance(said, dict)
                else "has learnt from other annotations, or another split"
                if (said.get("data"), said.get("split")) != (known, split)
                else f"is of fold {said.get('place', -1) + 1} of {said.get('of')}"
            )
            raise ValueError(
                f"{file} {why}; models= takes the files of one `vertebra suspects folds=K`, in order: "
                f"fold-1/model.safetensors … of {len(files)}"
            )


def judge(
    files: Sequence[str | Path],
    source: Source[Any],
    split: SplitName,
    settings: EvaluateSettings,
    reporter: Reporter,
) -> ObjectResults:
    """What the models of the folds find, each on the images that it has not learnt from, as results on the whole split.

    `reporter` says how good each is there.
    """
    annotations = source.with_boxes().split(split).annotations
    ids = np.sort(annotations.image_ids)
    found: list[Predictions] = []
    metric: Any = None
    for place, (file, rows) in enumerate(zip(files, folds(len(annotations), len(files)), strict=True)):
        result = evaluate(file, Parts(source, {"val": (split, rows)}), split="val", settings=settings)
        results = results_of(result.results)["objects"][0]
        of_part = np.searchsorted(ids, np.sort(annotations.image_ids[rows]))
        found.append(replace(results.found, images=of_part[results.found.images], masks=None))
        reporter.say(f"fold {place + 1} of {len(files)}: AP {result.numbers['AP']:.3f} on {len(rows)} images")
        metric = getattr(result.results, "coco", result.results)
    whole = type(metric)(annotations)
    return object_results(whole, whole.truths()[0], joined(found))


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The detections of all `parts`, by image."""
    images = np.concatenate([part.images for part in parts])
    order = np.argsort(images, kind="stable")
    columns = (
        np.concatenate([getattr(part, name) for part in parts])[order]
        for name in ("images", "categories", "boxes", "scores")
    )
    return Predictions(*columns)
