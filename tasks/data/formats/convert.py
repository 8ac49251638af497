"""Writes a data set of boxes in another format: COCO, Pascal VOC or YOLO.

Whatever a format cannot hold is counted in `Losses` and told, never lost in silence.
"""

import json
import shutil
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import yaml

from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.outlines import clip_ring, outline
from tasks.data.annotations.segmentations import Rings, Segmentations
from tasks.data.formats.coco import CocoData
from tasks.data.formats.raw import RawSplit
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData, label_file
from tasks.data.loading.images import DEFAULT_READING, SUFFIXES, Reading, check_regular
from tasks.data.loading.storage import ImageStorage, open_images
from tasks.data.quality.annotation_checks import diagnose_annotations
from tasks.data.splits import SplitName

Format = Literal["coco", "voc", "yolo"]
Crowd = Literal["drop", "keep"]
MIN_VOC_SIDE = 1.001
"""Of first and last pixel, counted from 1, nothing narrower can be told from a slip."""


@dataclass
class Split:
    """One split to write."""

    name: SplitName
    folder: Path
    """The images'."""
    annotations: Annotations
    reading: Reading = DEFAULT_READING
    """How the images are read."""

    @property
    def storage(self) -> ImageStorage:
        """The image files."""
        return open_images(self.folder, self.reading)


@dataclass
class Losses:
    """What the format that is written cannot hold, by how often."""

    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    """Objects that were left out, by split."""
    unread: int = 0
    """Objects that are written and that reading finds fault with."""

    def add(self, what: str, count: int = 1) -> None:
        """Notes it."""
        if count:
            self.counts[what] += count

    def lines(self) -> list[str]:
        """In words."""
        return [f"{count} {what}" for what, count in self.counts.items()]


def convert(splits: list[Split], to: Format, out: Path, *, crowd: Crowd = "drop") -> Losses:
    """Writes the splits, images too, into the new folder `out`, which appears whole or not at all, and reads it back.

    `crowd` says what becomes of crowd regions where the format has no word for them. What is written lies inside its
    image. Raises FileExistsError where `out` is there and not empty, ValueError where two images would get one name or
    what is read back is not what was written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"out={out} is not empty; give another folder, or delete this one")
    losses = Losses()
    splits = [replace(split, annotations=inside_images(split.annotations, losses)) for split in splits]
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    # A folder that nobody else has: what was there before is never this run's to remove.
    own = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.absolute().parent))
    partial = own / out.name
    try:
        partial.mkdir()
        WRITERS[to](splits, partial, losses, crowd)
        for split in splits:
            check_written(split, to, partial, losses)
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(own, ignore_errors=True)
    return losses


def inside_images(found: Annotations, losses: Losses) -> Annotations:
    """The annotations with boxes and polygons cut at the borders of their images, as other loaders want them."""
    images = np.repeat(np.arange(len(found)), np.diff(found.offsets))
    limits = found.sizes[images, ::-1].astype(np.float64)
    low, high = found.boxes[:, :2], found.boxes[:, :2] + found.boxes[:, 2:]
    is_beyond = ((low < 0) | (high > limits)).any(axis=1)
    boxes, areas = found.boxes.copy(), found.areas.copy()
    start, stop = low.clip(0, limits), high.clip(0, limits)
    boxes[is_beyond] = np.concatenate([start, stop - start], axis=1)[is_beyond]
    # Start and size are rounded one by one: their sum may pass the border by the last bit.
    for axis in (0, 1):
        over = is_beyond & (boxes[:, axis] + boxes[:, 2 + axis] > limits[:, axis])
        boxes[over, 2 + axis] = np.nextafter(boxes[over, 2 + axis], 0)
    of_box = is_beyond & np.isclose(areas, found.boxes[:, 2:].prod(axis=1), rtol=1e-3)
    areas[of_box] = boxes[of_box, 2:].prod(axis=1)
    losses.add("boxes cut at the border of their image", int(is_beyond.sum()))
    if found.segmentations is None:
        return replace(found, boxes=boxes, areas=areas)
    masks: list[Rings | bytes | None] = []
    num_cut = 0
    for row in range(len(found.ids)):
        mask = found.segmentations[row]
        if isinstance(mask, list):
            width, height = limits[row]
            cut = [ring for old in mask if (ring := clip_ring(old, width, height))]
            num_cut += cut != mask
            mask = cut or None
        masks.append(mask)
    losses.add("masks cut at the border of their image", num_cut)
    segmentations = Segmentations.from_objects(masks) if num_cut else found.segmentations
    return replace(found, boxes=boxes, areas=areas, segmentations=segmentations)


def check_written(split: Split, to: Format, out: Path, losses: Losses) -> None:
    """Reads a split back. Raises ValueError where images, classes or objects are not those that were written, the
    objects apart that `losses` says were left out; notes those that its reader will find fault with."""
    raw = READERS[to](out, split.name)
    found = split.annotations
    wanted = len(found.ids) - losses.dropped.get(split.name, 0)
    for what, number, expected in (
        ("images", len(raw), len(found)),
        ("objects", len(raw.ids), wanted),
    ):
        if number != expected:
            raise ValueError(
                f"the {split.name} split that was written as {to} reads back with {number} of {expected} {what}; "
                f"nothing is kept: {advice(split, to)}"
            )
    if raw.class_names != found.class_names:
        differing = next(
            (a for a, b in zip(found.class_names, raw.class_names, strict=False) if a != b),
            found.class_names[-1],
        )
        raise ValueError(
            f"the class name {differing!r} does not read back from {to}; nothing is kept: rename the class"
        )
    bad = diagnose_annotations(raw)
    for issue, rows in bad.rows.items():
        losses.add(f"objects that reading finds fault with: {issue.name}", len(rows))
    if raw.unreadable:
        raise ValueError(
            f"what was written as {to} cannot be read back: {next(iter(raw.unreadable.values()))}"
        )
    losses.unread += int(bad.is_bad.sum())


def advice(split: Split, to: Format) -> str:
    """What may be the reason that images are not found again."""
    names = [split.annotations.file_name(index) for index in range(len(split.annotations))]
    other = next((name for name in names if PurePosixPath(name).suffix.lower() not in SUFFIXES), None)
    if to != "coco" and other is not None:
        return f"its readers take {', '.join(sorted(SUFFIXES))} for images, and '{other}' is none; convert such files"
    return "rename the images plainly, without blanks, folders and dots"


def read_coco(out: Path, name: SplitName) -> RawSplit:
    """A split that `write_coco` wrote."""
    options: dict[str, Any] = {
        f"{name}_images": f"{name}2017",
        f"{name}_annotations": f"annotations/instances_{name}2017.json",
    }
    return CocoData(out, **options).raw(name, segmentations=True)


def read_voc(out: Path, name: SplitName) -> RawSplit:
    """A split that `write_voc` wrote."""
    return VocData(out).raw(name)


def read_yolo(out: Path, name: SplitName) -> RawSplit:
    """A split that `write_yolo` wrote."""
    return YoloData(out, masks=True).raw(name)


READERS: Mapping[str, Callable[[Path, SplitName], RawSplit]] = {
    "coco": read_coco,
    "voc": read_voc,
    "yolo": read_yolo,
}


def write_coco(splits: list[Split], out: Path, losses: Losses, crowd: Crowd) -> None:
    """COCO's own folders: train2017 with annotations/instances_train2017.json. Loses nothing."""
    (out / "annotations").mkdir(parents=True)
    for split in splits:
        found = split.annotations
        content = found.to_coco()
        for index, record in enumerate(content["images"]):
            record["file_name"] = inside(found.file_name(index))
            copy(split, found.file_name(index), out / f"{split.name}2017" / record["file_name"], losses)
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
            copy(split, file, out / "JPEGImages" / name, losses)
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
        x, w = (x, w) if w >= MIN_VOC_SIDE else (widened(x, w, width), MIN_VOC_SIDE)
        y, h = (y, h) if h >= MIN_VOC_SIDE else (widened(y, h, height), MIN_VOC_SIDE)
        item = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(item, "name").text = found.class_names[found.labels[row]]
        ElementTree.SubElement(item, "difficult").text = str(int(found.is_crowd[row]))
        box = ElementTree.SubElement(item, "bndbox")
        for tag, value in (("xmin", x + 1), ("ymin", y + 1), ("xmax", x + w), ("ymax", y + h)):
            ElementTree.SubElement(box, tag).text = f"{value:.10g}"
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="utf-8")


def widened(start: float, extent: float, limit: int) -> float:
    """Where a box begins that is made `MIN_VOC_SIDE` wide about its centre, inside an image of `limit` pixels."""
    return max(0.0, min(start - (MIN_VOC_SIDE - extent) / 2, limit - MIN_VOC_SIDE))


def write_yolo(splits: list[Split], out: Path, losses: Losses, crowd: Crowd) -> None:
    """images/train with labels/train, and data.yaml. An object with a mask is written as its outline."""
    stems: dict[str, str] = {}
    for split in splits:
        found = split.annotations
        for index in range(len(found)):
            file = inside(found.file_name(index))
            image = out / "images" / split.name / file
            labels = label_file(
                image
            )  # where the reader looks: a folder of the name that is called images counts
            taken(stems, str(labels), f"{split.folder}/{file}")
            copy(split, found.file_name(index), image, losses)
            labels.parent.mkdir(parents=True, exist_ok=True)
            lines = yolo_lines(found, index, losses, crowd)
            losses.dropped[split.name] += int(found.offsets[index + 1] - found.offsets[index]) - len(lines)
            labels.write_text("".join(lines), "utf-8")
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
        if ring is not None and len(ring) >= 6:
            points = np.array(ring).reshape(-1, 2).clip(0, [width, height])
            low, high = points.min(axis=0), points.max(axis=0)
            off = np.abs(np.concatenate([low - [x, y], high - [x + w, y + h]])).max()
            losses.add("boxes replaced by that of their mask, more than half a pixel off", bool(off > 0.5))
            values = (points / [width, height]).reshape(-1).tolist()
        else:
            (cx, w), (cy, h) = (
                within((x + w / 2) / width, w / width),
                within((y + h / 2) / height, h / height),
            )
            values = [cx, cy, w, h]
        lines.append(f"{found.labels[row]} {' '.join(f'{value:.10g}' for value in values)}\n")
    return lines


def within(centre: float, extent: float) -> tuple[float, float]:
    """Both as they are written, with ten digits, the extent made smaller by what rounding puts outside 0 … 1."""
    centre, extent = float(f"{centre:.10g}"), float(f"{extent:.10g}")
    while (excess := max(centre + extent / 2 - 1, extent / 2 - centre)) > 0:
        extent = float(f"{extent - 2 * excess - 1e-10:.10g}")
    return centre, extent


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


def copy(split: Split, name: str, destination: Path, losses: Losses) -> None:
    """Copies an image, where no other was copied to."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    if destination.exists():
        raise ValueError(
            f"two images would be written to '{destination.name}' of one folder; rename one of them"
        )
    store = split.storage
    if split.reading.allow_outside and not open_images(
        split.folder, replace(split.reading, allow_outside=False)
    ).is_inside(name):
        losses.add("images copied from outside the data set (data.allow_outside=true)")
    source = store.source(name)
    if isinstance(source, bytes):
        destination.write_bytes(source)
    else:
        check_regular(source)
        shutil.copyfile(source, destination)
