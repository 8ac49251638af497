"""`write_report`: report.html and report.json of a run or an evaluation, from what it found and what it left."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import write_text
from tasks.metrics.bootstrap import Interval, bracket, in_words
from tasks.metrics.outcomes import LabelOutcomes, PixelOutcomes
from tasks.report.labels import label_sections
from tasks.report.objects import ObjectResults, object_sections
from tasks.report.page import Number, Section, render
from tasks.report.pixels import pixel_sections
from tasks.report.suspects import suspects_section
from tasks.report.training import setup_section, training_section

NUM_PICTURES = 12
HEADLINE = {
    "AP": "AP", "AP50": "AP50", "AP75": "AP75", "AR_100": "AR", "mask_AP": "mask AP", "mask_AP50": "mask AP50",
    "top1": "top-1", "top5": "top-5", "mean_class_accuracy": "mean over classes",
    "mean_iou": "mean IoU", "pixel_accuracy": "pixel accuracy",
}  # fmt: skip


@dataclass(frozen=True)
class Findings:
    """What a model found on a split, whatever its task."""

    title: str
    split_name: str
    numbers: Mapping[str, float]
    intervals: Mapping[str, Interval]
    split: Any
    """A `tasks.data.splits.Split`, for its images and their names."""
    objects: Sequence[ObjectResults] = ()
    """Of boxes, and of masks."""
    labels: LabelOutcomes | None = None
    pixels: PixelOutcomes | None = None
    confusion: np.ndarray | None = None
    """(K, K) of pixels."""
    predict: Callable[[np.ndarray], np.ndarray] | None = None
    """The class map of an image, where the task is semantic segmentation."""
    explain: Callable[[np.ndarray, np.ndarray, list[str]], list[tuple[str, str]]] | None = None
    """Which stage of a detector found or lost each object of an image, and why in words, by boxes xyxy and classes."""
    extra: Sequence[Section] = field(default_factory=tuple)


def write_report(folder: Path, findings: Findings | None, *, num_pictures: int = NUM_PICTURES) -> None:
    """Writes both files into `folder`, each whole or not at all; of a run without findings, what there is."""
    sections: list[Section] = []
    if findings is None:
        title, about = (
            f"Report of {folder.name}",
            "This run has not ended: it has no results yet, only how it went.",
        )
    else:
        num_images = len(findings.split.annotations)
        title = findings.title
        about = (
            f"{num_images} images of the {findings.split_name} split. {in_words(findings.intervals, num_images)}. "
            "What other images of the kind would give, not what another seed would."
        )
        sections += [_headline(findings), *_findings(findings, num_pictures), *findings.extra]
    sections += [training_section(folder), setup_section(folder)]
    numbers = {} if findings is None else dict(findings.numbers)
    intervals = {} if findings is None else {name: list(ends) for name, ends in findings.intervals.items()}
    values = {
        "title": title,
        "split": None if findings is None else findings.split_name,
        "numbers": numbers,
        "intervals": intervals,
        "sections": {section.title: _values(section) for section in sections if section},
    }
    write_text(folder / "report.html", render(title, about, sections))
    write_text(folder / "report.json", json.dumps(_plain(values), indent=1) + "\n")


def _headline(findings: Findings) -> Section:
    shown = [
        Number(title, f"{findings.numbers[name]:.3f}", bracket(findings.intervals.get(name)).strip())
        for name, title in HEADLINE.items()
        if name in findings.numbers and not math.isnan(findings.numbers[name])
    ]
    return Section("Numbers", numbers=shown)


def _findings(findings: Findings, num_pictures: int) -> list[Section]:
    annotations = findings.split.annotations
    order = np.argsort(annotations.image_ids)

    def read(place: int) -> np.ndarray:
        return findings.split.image(int(order[place]))

    def file_name(place: int) -> str:
        return annotations.file_name(int(order[place]))

    image, numbers, intervals = read if num_pictures else None, findings.numbers, findings.intervals
    sections: list[Section] = []
    for results in findings.objects:
        sections += object_sections(
            results, numbers, intervals, image, file_name, num_pictures, findings.explain
        )
    if findings.objects and findings.split_name != "train":
        sections.append(suspects_section(findings.objects[0], file_name))
    if findings.labels is not None:
        sections += label_sections(findings.labels, numbers, intervals, image, file_name, num_pictures)
    if findings.pixels is not None:
        sections += pixel_sections(
            findings.pixels, findings.confusion, numbers, intervals, image,
            lambda place: annotations.read(int(order[place])), findings.predict, file_name, num_pictures,
        )  # fmt: skip
    return sections


def _values(section: Section) -> dict[str, Any]:
    tables = {
        table.title: {"header": list(table.header), "rows": [list(r) for r in table.rows]}
        for table in section.tables
    }
    return {**({"tables": tables} if tables else {}), **section.values}


def _plain(value: Any) -> Any:
    """Without numbers that JSON has not."""
    if isinstance(value, Mapping):
        return {str(key): _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
