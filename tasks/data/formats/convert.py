"""Writes a data set of boxes in another format: COCO, Pascal VOC or YOLO.

Whatever a format cannot hold is counted in `Losses` and told, never lost in silence.
"""

import json
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import yaml

from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.outlines import outline
from tasks.data.loading.storage import in_archive, read_file

Format = Literal["coco", "voc", "yolo"]
Crowd = Literal["drop", "keep"]
MIN_VOC_SIDE = 1.001
"""Of first and last pixel, counted from 1, nothing narrower can be told from a slip."""


@dataclass
class Split:
    """One split to write."""

    name: str
    folder: Path
    """The images'."""
    annotations: Annotations


@dataclass
class Losses:
    """What the format that is written cannot hold, by how often."""

    counts: Counter[str] = field(default_factory=Counter)

    def add(self, what: str, count: int = 1) -> None:
        """Notes it."""
        if count:
            self.counts[what] += count

    def lines(self) -> list[str]:
        """In words."""
        return [f"{count} {what}" for what, count in self.counts.items()]


def convert(splits: list[Split], to: Format, out: Path, *, crowd: Crowd = "drop") -> Losses:
    """Writes the splits, images too, into the new folder `out`, which appears whole or not at all.

    `crowd` says what becomes of crowd regions where the format has no word for them. Raises FileExistsError where
    `out` is there and not empty, ValueError where two images would get one name.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out={out} is not empty; give another folder, or delete this one")
    out.parent.mkdir(parents=True, exist_ok=True)
    # A folder that nobody else has: what was there before is never this run's to remove.
    own = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    partial = own / out.name
    losses = Losses()
    try:
        partial.mkdir()
        WRITERS[to](splits, partial, losses, crowd)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return losses


def write_coco(splits: list[Split], out: Path, losses: Losses, crowd: Crowd) -> None:
    """COCO's own folders: train2017 with annotations/instances_train2017.json. Loses nothing."""
    (out / "annotations").mkdir(parents=True)
    for split in splits:
        found = split.annotations
        content = found.to_coco()
        for index, record in enumerate(content["images"]):
            record["file_name"] = inside(found.file_name(index))
            copy(split.folder / found.file_name(index), out / f"{split.name}2017" / record["file_name"])
        for annotation in content["annotations"]:
            annotation.setdefault("segmentation", [])  # COCO's tools look for it
        path = out / "annotations" / f"instances_{split.name}2017.json"
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def write_voc(splits: list[Split], out: Path, losses: Losses, crowd: Crowd) -> None:
    """VOC's layout, and classes.txt for the order of the classes. Corners keep fractions of pixels."""
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (out / folder).mkdir(parents=True)
    stems: dict[str, str] = {}
    for split in splits:
        found = split.annotations
        listed = []
        for index in range(len(found)):
            file = found.file_name(index)
            stem = "_".join(PurePosixPath(inside(file)).with_suffix("").as_posix().replace("/", "_").split())
            taken(stems, stem, f"{split.folder}/{file}")
            listed.append(stem)
            name = stem + PurePosixPath(file).suffix
            losses.add("image names changed (folders and spaces became _)", name != file)
            copy(split.folder / file, out / "JPEGImages" / name)
            (out / "Annotations" / f"{stem}.xml").write_bytes(voc_xml(found, index, name, losses))
        (out / "ImageSets/Main" / f"{split.name}.txt").write_text("".join(f"{s}\n" for s in listed), "utf-8")
        losses.add("image ids and category ids written without: VOC has none", len(found))
        losses.add("annotation ids written without: VOC has none", len(found.ids))
        losses.add("crowd regions became difficult objects", int(found.is_crowd.sum()))
    (out / "classes.txt").write_text(
        "".join(f"{name}\n" for name in splits[0].annotations.class_names), "utf-8"
    )


def voc_xml(found: Annotations, index: int, file: str, losses: Losses) -> bytes:
    """The XML of one image. Corners are the first and last pixel, counted from 1."""
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "filename").text = file
    size = ElementTree.SubElement(root, "size")
    height, width = found.sizes[index].tolist()
    for tag, value in (("width", width), ("height", height), ("depth", 3)):
        ElementTree.SubElement(size, tag).text = str(value)
    for row in range(found.offsets[index], found.offsets[index + 1]):
        x, y, w, h = found.boxes[row].tolist()
        losses.add(
            "masks left out: VOC's, of one object a pixel, cannot overlap", bool(found.segmentation(row))
        )
        losses.add("boxes of a pixel or less made a pixel wide", min(w, h) < MIN_VOC_SIDE)
        x, w = (x, w) if w >= MIN_VOC_SIDE else (max(0, x - (MIN_VOC_SIDE - w) / 2), MIN_VOC_SIDE)
        y, h = (y, h) if h >= MIN_VOC_SIDE else (max(0, y - (MIN_VOC_SIDE - h) / 2), MIN_VOC_SIDE)
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = found.class_names[found.labels[row]]
        ElementTree.SubElement(item, "difficult").text = str(int(found.is_crowd[row]))
        box = ElementTree.SubElement(item, "bndbox")
        for tag, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
            ElementTree.SubElement(box, tag).text = f"{value:.10g}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8")


def write_yolo(splits: list[Split], out: Path, losses: Losses, crowd: Crowd) -> None:
    """images/train with labels/train, and data.yaml. An object with a mask is written as its outline."""
    stems: dict[str, str] = {}
    for split in splits:
        found = split.annotations
        for index in range(len(found)):
            file = inside(found.file_name(index))
            labels = (out / "labels" / split.name / file).with_suffix(".txt")
            taken(stems, str(labels), f"{split.folder}/{file}")
            copy(split.folder / found.file_name(index), out / "images" / split.name / file)
            labels.parent.mkdir(parents=True, exist_ok=True)
            labels.write_text("".join(yolo_lines(found, index, losses, crowd)), "utf-8")
        losses.add("image ids and category ids written without: YOLO counts classes from 0", len(found))
        losses.add("annotation ids written without: YOLO has none", len(found.ids))
    content = {
        "path": ".",
        **{split.name: f"images/{split.name}" for split in splits},
        "names": dict(enumerate(splits[0].annotations.class_names)),
    }
    (out / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")


def yolo_lines(found: Annotations, index: int, losses: Losses, crowd: Crowd) -> list[str]:
    """The labels of one image."""
    height, width = found.sizes[index].tolist()
    lines = []
    for row in range(found.offsets[index], found.offsets[index + 1]):
        x, y, w, h = found.boxes[row].tolist()
        if found.is_crowd[row]:
            if crowd == "drop":
                losses.add(
                    "crowd regions or difficult objects left out: YOLO would teach them (crowd=keep writes them)"
                )
                continue
            losses.add("crowd regions or difficult objects written as any other: YOLO has no word for them")
        ring = outline(found.segmentation(row), height, width)
        if ring is not None:
            points = np.array(ring).reshape(-1, 2)
            low, high = points.min(axis=0), points.max(axis=0)
            off = np.abs(np.concatenate([low - [x, y], high - [x + w, y + h]])).max()
            losses.add("boxes replaced by that of their mask, more than half a pixel off", bool(off > 0.5))
            values = (points / [width, height]).reshape(-1).tolist()
        else:
            values = [(x + w / 2) / width, (y + h / 2) / height, w / width, h / height]
        lines.append(f"{found.labels[row]} {' '.join(f'{value:.10g}' for value in values)}\n")
    return lines


WRITERS: Mapping[str, Callable[[list[Split], Path, Losses, Crowd], None]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
}


def inside(file: str) -> str:
    """The path of an image below any folder: of an absolute path, or one that leads out, the name alone."""
    path = PurePosixPath(file)
    return path.name if path.is_absolute() or ".." in path.parts else file


def taken(names: dict[str, str], name: str, source: str) -> None:
    """Raises ValueError where another image has this name already."""
    if (other := names.setdefault(name, source)) != source:
        raise ValueError(
            f"'{other}' and '{source}' would both be named '{Path(name).stem}', which tells labels from each other in "
            "this format; rename one of them"
        )


def copy(source: Path, destination: Path) -> None:
    """Copies a file, where no other was copied to."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists():
        raise ValueError(
            f"two images would be written to '{destination.name}' of one folder; rename one of them"
        )
    if in_archive(source) is None:
        shutil.copyfile(source, destination)
    else:
        destination.write_bytes(read_file(source))
