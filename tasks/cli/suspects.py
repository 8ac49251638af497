"""`vertebra suspects`: the annotations of a split that are most probably wrong, for a person to look at."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.found_data import run_of
from tasks.cli.nodes import as_list, whole_number
from tasks.cli.output import Found, files_of, say_result
from tasks.cli.run_config import load_config
from tasks.cli.settings import settings_of, spec_of
from tasks.cli.terminal import Terminal, folder_of_run, prepare
from tasks.data.sources import Source
from tasks.files import write_csv, write_json, write_text
from tasks.folders import check_free
from tasks.harness.cross_fit import check_folds, judge, train_folds
from tasks.harness.evaluate import evaluate
from tasks.harness.reporter import Reporter
from tasks.harness.session import files_in, run_folder
from tasks.harness.settings import EvaluateSettings, TrainSettings
from tasks.metrics.suspects import WAYS, Suspect
from tasks.report.objects import ObjectResults
from tasks.report.page import Picture, Section, Table, render
from tasks.report.pictures import encoded, side_by_side
from tasks.report.results import results_of
from tasks.report.suspects import rank
from tasks.visualization.boxes import draw_detections, draw_outcomes

ONLY_OBJECTS = "suspects are looked for where objects are annotated (task=detection and its relatives)"
HEADER = ("image", "way", "doubt", "annotation", "annotated as", "model says", "x", "y", "width", "height")


def suspects(config: DictConfig) -> Found:
    """Ranks the annotations of a split by models that have not learnt from them; changes none of them."""
    number, pictures = whole_number(config, "number", least=1), whole_number(config, "pictures")
    settings = settings_of(EvaluateSettings, config)
    if config.run_dir is not None:
        check_free(Path(str(config.run_dir)), "run_dir")  # before minutes of evaluation
    prepare(settings.trainer.device)
    source = data_of(config)
    with folder_of_run(config, "suspects") as folder:
        results, who = judged(config, source, settings, folder)
        ranked = rank(results)[:number]
        place = folder if config.folds is not None else run_folder(folder, "suspects")
        about = f"The {len(ranked)} most doubtful annotations of {config.split}, judged by {who}."
        listed = write(place, ranked, results, source, config.split, pictures, about)
        counts = {way: sum(suspect.way == way for suspect in ranked) for way in WAYS}
        words = ", ".join(f"{count} {way}" for way, count in counts.items())
        say_result(f"\njudged by {who}\nthe {len(ranked)} most doubtful: {words}\n{files_in(place)}")
        found = {"split": config.split, "judged_by": who, "counts": counts, "suspects": listed}
        return Found({**found, **files_of(place)})


def judged(
    config: DictConfig, source: Source, settings: EvaluateSettings, folder: Path
) -> tuple[ObjectResults, str]:
    """What is found on the split, and by whom in words: models of the folds, trained now or given, or one model."""
    split, terminal = config.split, Terminal()
    if config.models is not None:
        if config.folds is not None or config.checkpoint is not None:
            raise ValueError(
                "give models=, those of the folds, or checkpoint=F (with folds=K or without), not both"
            )
        files = [str(file) for file in as_list(config.models)]
        check_folds(files, source, split)
        return judge(
            files, source, split, settings, terminal
        ), f"{len(files)} given models, each on its own fold"
    if config.checkpoint is None:
        raise ValueError("checkpoint is not set; give checkpoint=FILE, a model file or checkpoint")
    if config.folds is not None:
        task, spec, recipe = recipe_of(str(config.checkpoint), config.steps)
        run_folder(folder, "suspects")
        files = train_folds(task, spec, recipe, source, split, config.folds, folder, terminal)
        who = f"{len(files)} models of the recipe of {config.checkpoint}, trained now, each on its own fold"
        return judge(files, source, split, settings, Reporter()), who
    if split == "train":
        raise ValueError(
            "split=train: a model repeats the errors that it has learnt; give folds=5, which trains five models by "
            "the recipe of this one, each on four fifths of the split, to judge the rest"
        )
    found = evaluate(config.checkpoint, source, split=split, settings=settings, reporter=terminal)
    results = results_of(found.results).get("objects")
    if results is None:
        raise ValueError(ONLY_OBJECTS)
    return results[0], f"{config.checkpoint} alone, which must not have learnt from them"


def recipe_of(checkpoint: str, steps: int | None) -> tuple[str, dict[str, Any], TrainSettings]:
    """Task, network and settings of the run that made a model file; `steps` are taken instead of its own."""
    folder = run_of(Path(checkpoint))
    if not (folder / "config.yaml").is_file():
        raise ValueError(
            f"folds= repeats the training of {checkpoint}, and the config.yaml of its run does not lie in {folder}; "
            "give the model file in the folder of its run"
        )
    config = load_config(folder / "config.yaml")
    if config.task.name not in ("detection", "instance_segmentation"):
        raise ValueError(ONLY_OBJECTS)
    config.resume = config.run_dir = None
    settings = replace(settings_of(TrainSettings, config), loggers=("csv",))
    if steps is not None:
        trainer = replace(
            settings.trainer, max_steps=steps, max_epochs=-1, max_time=None, val_check_interval="max_steps",
            check_val_every_n_epoch=None,
        )  # fmt: skip
        settings = replace(settings, trainer=trainer)
    return config.task.name, spec_of(config), settings


def write(
    folder: Path,
    ranked: list[Suspect],
    results: ObjectResults,
    source: Source,
    split_name: Any,
    num_pictures: int,
    about: str,
) -> list[dict[str, Any]]:
    """Writes the list, a page, and what the model would say in COCO's format, to load beside the annotations; the
    list, as suspects.json has it."""
    split = source.with_boxes().split(split_name)
    annotations, truth, names = split.annotations, results.truth, results.class_names
    order = np.argsort(annotations.image_ids)
    rows, entries, pictures = [], [], []
    for suspect in ranked:
        image, row, found = int(order[suspect.image]), suspect.object, suspect.detection
        name = annotations.file_name(image)
        label = "" if row < 0 else names[int(truth.categories[row])]
        known = "" if row < 0 else annotations.as_written("annotations", int(annotations.ids[row]))
        says = "nothing" if found < 0 else names[int(results.found.categories[found])]
        box = [f"{value:.1f}" for value in (results.found.boxes[found] if row < 0 else truth.boxes[row])]
        rows.append((name, suspect.way, f"{suspect.doubt:.3f}", known, label, says, *box))
        if found >= 0:
            category = int(np.sort(annotations.category_ids)[results.found.categories[found]])
            entries.append(
                {
                    "image_id": annotations.as_written("images", int(annotations.image_ids[image])),
                    "category_id": annotations.as_written("categories", category),
                    "bbox": results.found.boxes[found].tolist(),
                    "score": suspect.doubt,
                }
            )
        if len(pictures) < num_pictures:
            words = f"{name}: {suspect.way}, doubt {suspect.doubt:.2f}"
            pictures.append(_picture(suspect, results, split.image(image), words))
    write_csv(folder / "suspects.csv", HEADER, rows)
    write_json(folder / "corrections.json", entries)
    section = Section(
        "Annotations to look at",
        "Left what is annotated, the doubtful one in red; right what the model says. Nothing was changed.",
        pictures=pictures,
        tables=[Table("The most doubtful first", HEADER, rows)],
    )
    about += " corrections.json has the models' boxes."
    write_text(folder / "suspects.html", render("Label suspects", about, [section]))
    listed: list[dict[str, Any]] = [dict(zip(HEADER, row, strict=True)) for row in rows]
    write_json(folder / "suspects.json", listed)
    return listed


def _picture(suspect: Suspect, results: ObjectResults, image: np.ndarray, words: str) -> Picture:
    truth, found = results.truth, results.found
    objects = np.flatnonzero(truth.images == suspect.image)
    names = [str(results.class_names[k]) for k in truth.categories[objects].tolist()]
    left = draw_outcomes(
        image, _corners(truth.boxes[objects]), names, objects != suspect.object, np.zeros((0, 4))
    )
    rows = np.flatnonzero((found.images == suspect.image) & (found.scores >= 0.3))
    rows = np.union1d(rows, [suspect.detection]) if suspect.detection >= 0 else rows
    right = draw_detections(
        image, _corners(found.boxes[rows]), found.categories[rows], found.scores[rows], list(results.class_names),
        score_threshold=0.0,
    )  # fmt: skip
    return encoded(side_by_side(left, right), words)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
