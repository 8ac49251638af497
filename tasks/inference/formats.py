"""Predictions in the formats that others read: JSON, JSON Lines, CSV, COCO's annotations and results, YOLO's labels.

A *record* is what is known of one picture, as plain values: its unique `name`, the `file_name` that labels call it by,
and the `entry` of the JSON file, with the `error` of a picture that could not be read. Files of all pictures are
written record by record, so that a million of them fit into any memory.
"""

import csv
import json
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TextIO

import numpy as np

from tasks.data.annotations.results import to_result
from tasks.data.loading.images import SUFFIXES
from tasks.files import write_json_list, write_text, write_whole
from tasks.visualization.boxes import write_picture
from tasks.zoo.model_file import Header

Record = Mapping[str, Any]
Records = Callable[[], Iterable[Record]]
"""All records, in order; called anew for each time that they are read."""
OF_OBJECTS = frozenset({"coco", "yolo"})
"""Formats that hold objects and nothing else."""
OBJECT_TASKS = frozenset({"detection", "instance_segmentation"})
DIGITS = 18
"""Of a number that is an id; more would not fit into 64 bits."""


@dataclass(frozen=True)
class Format:
    """How predictions are written."""

    write: Callable[[Records, Path, Header, str], list[str]]
    """Writes the files of all pictures into a folder, of a model with this header and name; gives their names."""
    needs_images: bool = False
    """Whether the frames of a video are written as well, for labels are of pictures."""


def check_format(name: str, task: str) -> Format:
    """The format of that name. Raises ValueError for one that is none, or not for this task."""
    if name not in FORMATS:
        raise ValueError(f"format={name} is unknown; choose one of {', '.join(FORMATS)}")
    if name in OF_OBJECTS and task not in OBJECT_TASKS:
        raise ValueError(
            f"format={name} holds objects, and the model is for task={task}; give format=json, jsonl or csv"
        )
    return FORMATS[name]


def write_json(records: Records, folder: Path, header: Header, model: str) -> list[str]:
    """predictions.json: the model, an entry for each picture, and those that could not be read."""
    with _open(folder / "predictions.json") as file:
        file.write(f'{{\n"model": {json.dumps(model)},\n"pictures": ')
        write_json_list(file, (r["entry"] for r in records() if not _is_error(r)))
        file.write(',\n"unreadable": ')
        write_json_list(file, (r["entry"] for r in records() if _is_error(r)))
        file.write("\n}\n")
    return ["predictions.json"]


def write_jsonl(records: Records, folder: Path, header: Header, model: str) -> list[str]:
    """predictions.jsonl: a line for each picture or frame; those that could not be read have an `error`."""
    with _open(folder / "predictions.jsonl") as file:
        for record in records():
            file.write(json.dumps(record["entry"]) + "\n")
    return ["predictions.jsonl"]


COLUMNS = {
    "classification": ("class", "label", "probability"),
    "semantic_segmentation": ("class", "label", "share"),
}
"""Of the classes of a picture; other tasks have objects."""


def write_csv(records: Records, folder: Path, header: Header, model: str) -> list[str]:
    """predictions.csv: a line for each object, corners of its box in pixels, or for each class of a picture."""
    of_classes = COLUMNS.get(header.task)
    columns = of_classes or ("class", "label", "score", "x1", "y1", "x2", "y2")
    with _open(folder / "predictions.csv") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("file", "frame", *columns))
        for record in records():
            entry = record["entry"]
            first = (entry["file"], entry.get("frame", ""))
            for item in entry.get("classes", ()) if of_classes else entry.get("objects", ()):
                values = [item[key] for key in columns[:3]]
                writer.writerow((*first, *values, *item.get("box", ())))
    return ["predictions.csv"]


def write_coco(records: Records, folder: Path, header: Header, model: str) -> list[str]:
    """predictions.json, labels in COCO's format that another data set can be trained on, each with its score; and, in
    COCO's format of results, detections.json with boxes and masks.json with masks, where there are any.

    An image's id is the number that its file name ends with, where all have one and no two the same, as in COCO and
    LVIS; else images are numbered from 1.
    """
    ids = image_ids(records())
    has_masks = header.task == "instance_segmentation"

    def images() -> Iterator[dict[str, Any]]:
        for image_id, record in zip(ids, _readable(records()), strict=True):
            size = {side: record["entry"][side] for side in ("height", "width")}
            yield {"id": image_id, "file_name": record["file_name"], **size}

    def results() -> Iterator[dict[str, Any]]:
        for image_id, record in zip(ids, _readable(records()), strict=True):
            for item in record["entry"]["objects"]:
                yield to_result(item, image_id, header.category_ids[item["label"]])

    def labels() -> Iterator[dict[str, Any]]:
        number = 0
        for result in results():
            area = _area(result)
            if area > 0:  # readers of labels take no others
                number += 1
                yield {"id": number, **result, "area": area, "iscrowd": 0}

    with _open(folder / "predictions.json") as file:
        file.write(f'{{\n"info": {{"description": {json.dumps(f"predictions of {model}")}}},\n"images": ')
        write_json_list(file, images())
        file.write(',\n"annotations": ')
        write_json_list(file, labels())
        categories = zip(header.category_ids, header.class_names, strict=True)
        file.write(',\n"categories": ')
        write_json_list(file, ({"id": number, "name": name} for number, name in categories))
        file.write("\n}\n")
    written = {"detections.json": "segmentation", **({"masks.json": "bbox"} if has_masks else {})}
    for name, without in written.items():
        with _open(folder / name) as file:
            write_json_list(
                file, ({key: v for key, v in result.items() if key != without} for result in results())
            )
            file.write("\n")
    return ["predictions.json", *written]


def image_ids(records: Iterable[Record]) -> list[int]:
    """COCO's id of each picture that could be read, as `write_coco` says."""
    numbers: list[int] = []
    is_numbered, count = True, 0
    for record in _readable(records):
        count += 1
        found = re.search(rf"(?<!\d)\d{{1,{DIGITS}}}$", PurePosixPath(record["file_name"]).stem, re.ASCII)
        is_numbered = is_numbered and found is not None
        if found is not None and is_numbered:
            numbers.append(int(found[0]))
    is_numbered = is_numbered and len(np.unique(np.array(numbers, np.int64))) == count
    return numbers if is_numbered else list(range(1, count + 1))


def write_yolo(records: Records, folder: Path, header: Header, model: str) -> list[str]:
    """data.yaml, beside the images and labels that `YoloWriter` wrote."""
    import yaml

    content = {"path": ".", "train": "images/train", "names": dict(enumerate(header.class_names))}
    write_text(folder / "data.yaml", yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    return ["data.yaml", "images", "labels"]


class YoloWriter:
    """Copies of pictures with a file of labels each, in YOLO's layout, written as pictures come."""

    def __init__(self, folder: Path, header: Header) -> None:
        self.folder, self.header = folder / "images" / "train", header

    def write(self, name: str, file_name: str, image: np.ndarray, entry: Mapping[str, Any]) -> None:
        """Writes the picture at `entry["file"]` and the labels of its objects; `image` (uint8 (H, W, 3)) where that is
        not a file of a kind that readers of labels know."""
        from tasks.data.formats.convert import Losses, yolo_lines
        from tasks.data.formats.yolo import label_file

        place = Path(entry["file"])
        suffix = PurePosixPath(file_name).suffix.lower()
        is_copied = "frame" not in entry and suffix in SUFFIXES and place.is_file()
        path = self.folder / f"{name}{suffix if is_copied else '.jpg'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_copied:
            with write_whole(path) as partial:
                shutil.copyfile(place, partial)
        else:
            write_picture(path, image)
        labels = label_file(path)
        labels.parent.mkdir(parents=True, exist_ok=True)
        write_text(labels, "".join(yolo_lines(to_annotations(entry, self.header), 0, Losses(), "keep")))


def to_annotations(entry: Mapping[str, Any], header: Header) -> Any:
    """The objects of one picture as `Annotations`, those without any area left out."""
    from tasks.data.annotations.objects import Annotations
    from tasks.data.annotations.segmentations import Segmentations

    results = [to_result(item, 1, 1) for item in entry["objects"]]
    kept = [i for i, result in enumerate(results) if min(result["bbox"][2:]) > 0 and _area(result) > 0]
    masks = [results[i].get("segmentation") for i in kept]
    return Annotations(
        class_names=list(header.class_names),
        category_ids=np.array(header.category_ids, np.int64),
        image_ids=np.array([1]),
        file_names=np.array([b""]),
        sizes=np.array([[entry["height"], entry["width"]]], np.int32),
        offsets=np.array([0, len(kept)]),
        ids=np.arange(1, len(kept) + 1),
        labels=np.array([entry["objects"][i]["label"] for i in kept], np.int64),
        boxes=np.array([results[i]["bbox"] for i in kept], np.float64).reshape(-1, 4),
        areas=np.array([_area(results[i]) for i in kept], np.float64),
        is_crowd=np.zeros(len(kept), bool),
        segmentations=Segmentations.from_objects(
            None if mask is None else mask["counts"].encode() for mask in masks
        ),
    )


FORMATS: Mapping[str, Format] = {
    "json": Format(write_json),
    "jsonl": Format(write_jsonl),
    "csv": Format(write_csv),
    "coco": Format(write_coco, needs_images=True),
    "yolo": Format(write_yolo),
}


def _area(result: Mapping[str, Any]) -> float:
    if "segmentation" not in result:
        return result["bbox"][2] * result["bbox"][3]
    from pycocotools import mask as coco_mask

    mask: Any = result["segmentation"]
    return float(coco_mask.area({**mask, "counts": mask["counts"].encode()}))  # type: ignore[arg-type]


def _is_error(record: Record) -> bool:
    return "error" in record["entry"]


def _readable(records: Iterable[Record]) -> Iterator[Record]:
    return (record for record in records if not _is_error(record))


@contextmanager
def _open(path: Path) -> Iterator[TextIO]:
    """A text file that appears whole or not at all."""
    with write_whole(path) as partial, open(partial, "w", encoding="utf-8", errors="surrogateescape") as file:
        yield file
