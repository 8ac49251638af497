"""Files of detections in COCO's format of results, `[{"image_id", "category_id", "bbox", "segmentation", "score"}, …]`,
whoever wrote them, read against the annotations that they are to be scored on."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from tasks.data.annotations.objects import Annotations
from tasks.data.formats.coco import CocoData, load_json
from tasks.data.formats.values import to_boxes, to_key, to_number
from tasks.data.loading.images import one_line, read_regular
from tasks.data.quality.segmentation_checks import read_masks
from tasks.data.splits import SplitName

FEDERATED = ("neg_category_ids", "not_exhaustive_category_ids")
"""Keys of LVIS's images: classes that are known to be absent, and those that are not annotated exhaustively."""


@dataclass(frozen=True)
class Results:
    """N detections of a file, in its order."""

    images: np.ndarray
    """(N,) int64: the image's place in the annotations."""
    labels: np.ndarray
    """(N,) int64 in 0 … K-1."""
    boxes: np.ndarray
    """(N, 4) float64 xywh as written, or of the masks where the file has no boxes."""
    scores: np.ndarray
    """(N,) float64."""
    masks: list[bytes] | None
    """N compressed run lengths; None where the file has no masks."""

    def records(self, annotations: Annotations, *, masks: bool = False) -> list[dict[str, Any]]:
        """The detections in COCO's format, with masks in place of boxes where those are asked for."""
        image_ids, sizes = (
            annotations.image_ids[self.images].tolist(),
            annotations.sizes[self.images].tolist(),
        )
        category_ids = annotations.category_ids[self.labels].tolist()
        places: list[dict[str, Any]] = [{"bbox": box} for box in self.boxes.tolist()]
        if masks and self.masks is not None:
            places = [
                {"segmentation": {"size": size, "counts": counts.decode()}}
                for size, counts in zip(sizes, self.masks, strict=True)
            ]
        return [
            {"image_id": image_id, "category_id": category_id, "score": score, **place}
            for image_id, category_id, score, place in zip(
                image_ids, category_ids, self.scores.tolist(), places, strict=True
            )
        ]


def read_results(path: Path, annotations: Annotations) -> Results:
    """The detections in a file, checked; `annotations` are those of the images that they are of.

    An annotation file whose annotations have scores, as `vertebra predict format=coco` writes one, is taken as well:
    its images are then known by their file names.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not of this format, or not of these images and classes. One sentence names the first item.
    """
    records, image_names = _load(path)
    for row, record in enumerate(records):
        if not isinstance(record, dict):
            raise ValueError(
                f"'{path}': item {row} is {record!r:.40}; wanted an object with image_id, category_id and score"
            )
    scores = _scores(records, path)
    images = _images(records, image_names, annotations, path)
    labels = _labels(records, annotations, path)
    masks = _masks(records, images, annotations, path) if _all_have(records, "segmentation", path) else None
    if _all_have(records, "bbox", path):
        boxes = to_boxes([record["bbox"] for record in records])
        bad = np.asarray(~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < 0).any(axis=1))
        _check(
            path,
            bad,
            lambda row: f"has the bbox {records[row]['bbox']!r:.60}; wanted [x, y, width, height] in pixels",
        )
    elif masks is not None:
        sizes = annotations.sizes[images].tolist()
        of_masks = [{"size": size, "counts": counts} for size, counts in zip(sizes, masks, strict=True)]
        boxes = np.array(coco_mask.toBbox(of_masks), np.float64).reshape(-1, 4)  # type: ignore[arg-type]
    elif records:
        keys = ", ".join(sorted(map(str, records[0])))
        raise ValueError(
            f"'{path}' has neither 'bbox' nor 'segmentation' (item 0 has {keys:.80}); boxes and masks are scored, and "
            "nothing of another task"
        )
    else:
        boxes = np.zeros((0, 4))
    return Results(images, labels, boxes, scores, masks)


def _load(path: Path) -> tuple[list[Any], dict[Any, str] | None]:
    """The items, and names of images by id where the file is one of annotations."""
    try:
        content = json.loads(read_regular(path))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"detections={path} does not exist; give a JSON file in COCO's format of results"
        ) from None
    except IsADirectoryError:
        raise ValueError(f"detections={path} is a folder; give the JSON file in it") from None
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(
            f"detections={path} is not JSON ({one_line(error)}); give a file in COCO's format of results"
        ) from None
    if isinstance(content, list):
        return content, None
    annotations = content.get("annotations") if isinstance(content, dict) else None
    if not isinstance(annotations, list):
        raise ValueError(
            f"detections={path} is JSON but not a list of results; wanted "
            '[{"image_id": 1, "category_id": 1, "bbox": [x, y, width, height], "score": 0.9}, …]'
        )
    images = content.get("images")
    names = {
        to_key(image.get("id")): str(image.get("file_name"))
        for image in (images if isinstance(images, list) else [])
        if isinstance(image, dict)
    }
    return annotations, names


def _scores(records: list[dict[str, Any]], path: Path) -> np.ndarray:
    missing = [row for row, record in enumerate(records) if "score" not in record]
    if missing:
        why = (
            "; it looks like a file of annotations, which are the truth and no result"
            if "iscrowd" in records[missing[0]]
            else ""
        )
        raise ValueError(
            f"'{path}': item {missing[0]} has no 'score', without which detections have no order ({len(missing)} of "
            f"{len(records)} have none){why}"
        )
    scores = np.array([to_number(record["score"]) for record in records], np.float64)
    _check(
        path,
        ~np.isfinite(scores),
        lambda row: f"has the score {records[row]['score']!r:.40}; wanted a number",
    )
    return scores


def _images(
    records: list[dict[str, Any]], names: dict[Any, str] | None, annotations: Annotations, path: Path
) -> np.ndarray:
    if names is None:
        places = {
            to_key(annotations.as_written("images", number)): place
            for place, number in enumerate(annotations.image_ids.tolist())
        }
        found = [places.get(to_key(record.get("image_id")), -1) for record in records]
    else:
        files = [os.fsdecode(name) for name in annotations.file_names]
        places = {PurePosixPath(file).name: place for place, file in enumerate(files)}
        places = {name: place for name, place in places.items() if len(places) == len(files)}
        places |= {file: place for place, file in enumerate(files)}  # the whole path counts first
        of_id = {
            key: places.get(name, places.get(PurePosixPath(name).name, -1)) for key, name in names.items()
        }
        found = [of_id.get(to_key(record.get("image_id")), -1) for record in records]
    images = np.array(found, np.int64)
    unknown = images < 0
    share = f"{int(unknown.sum())} of {len(records)} items are of images that are not there"
    _check(
        path,
        unknown,
        lambda row: (
            f"is of image_id {records[row].get('image_id')!r:.40}, which the data does not have ({share}); give the "
            "data and the split= that it was made on"
        ),
    )
    return images


def _labels(records: list[dict[str, Any]], annotations: Annotations, path: Path) -> np.ndarray:
    known = {
        to_key(annotations.as_written("categories", number)): label
        for label, number in enumerate(annotations.category_ids.tolist())
    }
    labels = np.array([known.get(to_key(record.get("category_id")), -1) for record in records], np.int64)
    some = ", ".join(
        f"{key} {name}" for key, name in list(zip(known, annotations.class_names, strict=True))[:5]
    )
    _check(
        path,
        labels < 0,
        lambda row: (
            f"is of category_id {records[row].get('category_id')!r:.40}, which the data does not have ({some}"
            f"{', …' if len(known) > 5 else ''}); results count classes by the data's own ids"
        ),
    )
    return labels


def _masks(
    records: list[dict[str, Any]], images: np.ndarray, annotations: Annotations, path: Path
) -> list[bytes]:
    read = read_masks([record["segmentation"] for record in records], images, annotations.sizes)
    for issue, rows in read.issues.items():
        _check(path, rows, lambda row, issue=issue: f"has a segmentation that cannot be used ({issue.name})")
    masks = []
    for mask, (height, width) in zip(read.objects, annotations.sizes[images].tolist(), strict=True):
        if isinstance(mask, bytes):
            masks.append(mask)
        else:
            rings = coco_mask.frPyObjects(mask or [[0.0] * 6], height, width)  # type: ignore[call-overload]
            masks.append(coco_mask.merge(rings)["counts"])
    return masks


def _all_have(records: Sequence[Mapping[str, Any]], key: str, path: Path) -> bool:
    """Whether every item has something under `key`. Raises ValueError where only some have."""
    lacking = [row for row, record in enumerate(records) if record.get(key) in (None, [], {})]
    if lacking and len(lacking) < len(records):
        raise ValueError(
            f"'{path}': item {lacking[0]} has no '{key}', which other items have; all are scored alike, or none"
        )
    return bool(records) and not lacking


def _check(path: Path, bad: np.ndarray, what: Callable[[int], str]) -> None:
    """Raises ValueError with what is said of the first bad item."""
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(f"'{path}': item {row} {what(row)}")


def federated_truth(source: Any, split: SplitName, annotations: Annotations) -> dict[str, Any] | None:
    """The annotations as LVIS's files have them, with the classes that are known to be absent from each image and those
    that are not annotated exhaustively on it; None where the files of `source` say nothing of that."""
    if not isinstance(source, CocoData):
        return None
    path = source.made_of(split).path
    content = load_json(path, f"data.{split}_annotations")
    about = {to_key(image["id"]): image for image in content["images"]}
    if not any(key in image for image in about.values() for key in FEDERATED):
        return None
    frequency = {to_key(category["id"]): category.get("frequency", "f") for category in content["categories"]}
    truth = annotations.to_coco()
    for image in truth["images"]:
        image |= {key: about[to_key(image["id"])].get(key, []) for key in FEDERATED}
    for category in truth["categories"]:
        category["frequency"] = frequency[to_key(category["id"])]
    return truth
