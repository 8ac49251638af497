"""`vertebra suspects`: the annotations of a split that are most probably wrong, for a person to look at."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.output import Found, files_of, say_result
from tasks.cli.settings import settings_of
from tasks.cli.terminal import Terminal, folder_of_run, prepare
from tasks.cli.values import whole_number
from tasks.data.sources import Source
from tasks.files import write_csv, write_json, write_text
from tasks.folders import check_free
from tasks.harness.evaluate import evaluate
from tasks.harness.session import files_in, run_folder
from tasks.harness.settings import EvaluateSettings
from tasks.metrics.calibration import fit_calibration
from tasks.metrics.error_split import IGNORED, RIGHT, error_split
from tasks.metrics.suspects import WAYS, Suspect, find_suspects
from tasks.report.objects import ObjectResults
from tasks.report.page import Picture, Section, Table, render
from tasks.report.pictures import encoded, side_by_side
from tasks.report.results import results_of
from tasks.visualization.boxes import draw_detections, draw_outcomes


def suspects(config: DictConfig) -> Found:
    """Ranks the annotations of a split that the model has not learnt from; changes none of them."""
    if config.checkpoint is None:
        raise ValueError("checkpoint is not set; give checkpoint=FILE, a model file or checkpoint")
    if config.split == "train":
        raise ValueError(
            "split=train: a model repeats the errors that it has learnt; judge the train split by a model that was "
            "trained on the val split, and give data.train_… and data.val_… the other way round"
        )
    number, pictures = whole_number(config, "number", least=1), whole_number(config, "pictures")
    settings = settings_of(EvaluateSettings, config)
    if config.run_dir is not None:
        check_free(Path(str(config.run_dir)), "run_dir")  # before minutes of evaluation
    prepare(settings.trainer.device)
    source = data_of(config)
    found = evaluate(config.checkpoint, source, split=config.split, settings=settings, reporter=Terminal())
    results = results_of(found.results).get("objects")
    if results is None:
        raise ValueError(
            "suspects are looked for where objects are annotated (task=detection and its relatives)"
        )
    ranked = rank(results[0])[:number]
    with folder_of_run(config, "suspects") as folder:
        place = run_folder(folder, "suspects")
        write(place, ranked, results[0], source, config.split, pictures)
        counts = {way: sum(suspect.way == way for suspect in ranked) for way in WAYS}
        words = ", ".join(f"{count} {way}" for way, count in counts.items())
        say_result(f"\nthe {len(ranked)} most doubtful: {words}\n{files_in(place)}")
        listed = json.loads((place / "suspects.json").read_text(encoding="utf-8"))
        return Found({"split": config.split, "counts": counts, "suspects": listed, **files_of(place)})


def rank(results: ObjectResults) -> list[Suspect]:
    """All suspects, by scores that were made probabilities first."""
    errors = error_split(results.truth, results.found, results.matches)
    counted = errors.kinds != IGNORED
    calibration = fit_calibration(results.matches.scores[counted], errors.kinds[counted] == RIGHT)
    found = results.found
    calibrated = type(found)(
        found.images, found.categories, found.boxes, calibration(found.scores), found.masks
    )
    return find_suspects(results.truth, calibrated)


def write(
    folder: Path,
    ranked: list[Suspect],
    results: ObjectResults,
    source: Source,
    split_name: Any,
    num_pictures: int,
) -> None:
    """The list, a page, and what the model would say in COCO's format, to load beside the annotations."""
    split = source.with_boxes().split(split_name)
    annotations = split.annotations
    order = np.argsort(annotations.image_ids)
    rows, entries, pictures = [], [], []
    for number, suspect in enumerate(ranked):
        image = int(order[suspect.image])
        name = annotations.file_name(image)
        label = (
            "" if suspect.object < 0 else results.class_names[int(results.truth.categories[suspect.object])]
        )
        found = suspect.detection
        says = "nothing" if found < 0 else results.class_names[int(results.found.categories[found])]
        box = results.truth.boxes[suspect.object] if suspect.object >= 0 else results.found.boxes[found]
        known = int(annotations.ids[suspect.object]) if suspect.object >= 0 else None
        rows.append(
            (name, suspect.way, f"{suspect.doubt:.3f}", known or "", label, says, *(f"{v:.1f}" for v in box))
        )
        if found >= 0:
            entries.append(
                {
                    "image_id": annotations.as_written("images", int(annotations.image_ids[image])),
                    "category_id": annotations.as_written(
                        "categories", int(np.sort(annotations.category_ids)[results.found.categories[found]])
                    ),
                    "bbox": results.found.boxes[found].tolist(),
                    "score": suspect.doubt,
                }
            )
        if number < num_pictures:
            pictures.append(
                _picture(
                    suspect, results, split.image(image), f"{name}: {suspect.way}, doubt {suspect.doubt:.2f}"
                )
            )
    header = (
        "image",
        "way",
        "doubt",
        "annotation",
        "annotated as",
        "model says",
        "x",
        "y",
        "width",
        "height",
    )
    write_csv(folder / "suspects.csv", header, rows)
    write_json(folder / "corrections.json", entries)
    section = Section(
        "Annotations to look at",
        "Left what is annotated, the doubtful one in red; right what the model says. Nothing was changed.",
        pictures=pictures,
        tables=[Table("The most doubtful first", header, rows)],
    )
    about = f"The {len(ranked)} most doubtful annotations of {split_name}; corrections.json has the model's boxes."
    write_text(folder / "suspects.html", render("Label suspects", about, [section]))
    write_text(
        folder / "suspects.json",
        json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=1) + "\n",
    )


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
