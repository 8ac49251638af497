"""Damaged annotation files of every format of objects; the doctor and the loader must say the same of each.

Those of labelme, CVAT, Label Studio, CSV and XML are looked for by their layout, as `data=auto` does.

What passes has boxes inside its images, under every policy, and comes back whole from a conversion.
"""

import json
import logging
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from tasks.data.formats.coco import CocoData
from tasks.data.formats.convert import Split, convert
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tasks.data.layouts.auto import open_folder
from tasks.data.quality.issues import DIFFERENT_CATEGORIES, NO_MASK
from tasks.data.quality.report import examine
from tasks.preprocessing import Preprocessing
from tests.fuzz.mutation import VALUES, damage, spoil
from tests.tasks.data.formats import layouts

HEIGHT, WIDTH = 64, 96
PROMISED = (ValueError, FileNotFoundError)
SOURCES: dict[str, Callable[..., Any]] = {"coco": CocoData, "voc": VocData, "yolo": YoloData}
LOOKED_FOR = ("xml", "labelme", "cvat", "label_studio", "csv")
"""Formats whose data has no fixed folders."""
PICTURES = [
    layouts.Picture(
        split,
        f"{split}{number}",
        [("dog", (10, 12, 30, 20)), ("cat", (40, 8, 25, 30)), ("cat", (5, 20, 60, 20))],
    )
    for number, split in enumerate(("train", "train", "val", "val"))
]
WRITERS: dict[str, Callable[[Path, list[layouts.Picture]], None]] = {
    "xml": layouts.xml_sibling,
    "labelme": layouts.labelme_sibling,
    "cvat": layouts.cvat_splits,
    "label_studio": layouts.label_studio_splits,
    "csv": layouts.csv_roboflow,
}


def source_of(kind: str) -> Callable[..., Any]:
    """What opens a data set of the format."""
    if kind in SOURCES:
        return SOURCES[kind]
    return lambda root, **options: open_folder(root, **{"on_invalid": "error", **options})


class Input(NamedTuple):
    """One data set."""

    name: str
    kind: str
    files: dict[str, bytes]
    """Annotations by their path; the images are always the same."""


def inputs(seed: int) -> Iterator[Input]:
    """Data sets without end; the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        kind = rng.choice(("coco", "coco", "voc", "yolo", *LOOKED_FOR))
        files = genuine(kind)
        file = rng.choice(sorted(name for name in files if not name.endswith((".jpg", ".png"))))
        if file.endswith(".json") and rng.random() < 0.85:
            content = json.loads(files[file])
            for _ in range(rng.choice((1, 1, 3))):
                content = spoil(content, rng)
            try:
                files[file] = json.dumps(content).encode()
            except (ValueError, RecursionError):
                continue
        elif rng.random() < 0.6:
            files[file] = spoil_words(files[file], rng)
        else:
            files[file] = damage(files[file], rng)
        yield Input(f"{kind} with a damaged {file}", kind, files)


def spoil_words(content: bytes, rng: random.Random) -> bytes:
    """The text with a word of it, or what stands in a tag, replaced."""
    words = content.decode().replace("<", " <").replace(">", "> ").split(" ")
    place = rng.randrange(len(words))
    value = rng.choice(VALUES)
    words[place] = value if isinstance(value, str) else json.dumps(value)
    return " ".join(words).encode("utf-8", "surrogatepass")


def check(given: Input) -> str:
    """What is wrong with how the data set is read; "" for nothing."""
    logging.getLogger("tasks.data").setLevel(logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _check(given, Path(folder))
    finally:
        logging.getLogger("tasks.data").setLevel(logging.NOTSET)


def _check(given: Input, folder: Path) -> str:
    root = write(folder / "data", given)
    make = source_of(given.kind)
    try:
        report = examine(make(root), Preprocessing(short_side=HEIGHT, max_size=WIDTH))
    except PROMISED as error:
        return one_line(error, given)
    faults = [f for f in report.findings if f.issue.severity == "error"]
    masks = given.kind not in ("voc", "xml", "csv")
    try:
        source = make(root, masks=masks)
        splits = {name: source.split(name) for name in ("train", "val")}
    except PROMISED as error:
        if not faults:
            return f"the doctor finds nothing, the loader says: {error}"
        return one_line(error, given) or other_policies(make, root, masks)
    if any(f.issue not in (NO_MASK, DIFFERENT_CATEGORIES) for f in faults):
        return f"the loader takes it, the doctor says: {faults[0]}"
    for name, split in splits.items():
        if wrong := outside(split.annotations):
            return f"{name}: {wrong}"
    to = {"coco": "yolo", "voc": "coco", "yolo": "voc"}.get(given.kind, "coco")
    out = folder / "out"
    try:
        convert([Split(n, s.folder, s.annotations) for n, s in splits.items()], to, out, crowd="keep")  # type: ignore[arg-type]
    except PROMISED as error:
        return one_line(error, given)
    for name, split in splits.items():
        raw = source_of(to)(out).raw(name)
        if len(raw.ids) != len(split.annotations.ids):
            return f"{len(raw.ids)} of {len(split.annotations.ids)} objects read back from {to}"
        ends = raw.boxes[:, :2] + raw.boxes[:, 2:]
        if (raw.boxes[:, :2] < -1e-6).any() or (ends > raw.sizes[raw.images][:, ::-1] + 1e-6).any():
            return f"a box that was written to {to} is outside its image"
    return ""


def other_policies(make: Callable[..., Any], root: Path, masks: bool) -> str:
    """What is wrong with what fixing and dropping leave."""
    for on_invalid in ("fix", "drop"):
        try:
            source = make(root, masks=masks, on_invalid=on_invalid)
            splits = [source.split(name).annotations for name in ("train", "val")]
        except PROMISED:
            continue
        for annotations in splits:
            if wrong := outside(annotations):
                return f"on_invalid={on_invalid}: {wrong}"
    return ""


def outside(annotations: Any) -> str:
    """Whether a target has a box or mask that is not inside its image."""
    for index in range(len(annotations)):
        target = annotations.target(index)
        height, width = target.original_size
        if not np.isfinite(target.boxes).all() or not (target.boxes[:, 2:] > target.boxes[:, :2]).all():
            return f"a box without an area in image {index}: {target.boxes.tolist()}"
        if (target.boxes < 0).any() or (target.boxes > [width, height, width, height]).any():
            return f"a box outside image {index}: {target.boxes.tolist()}"
        for mask in target.masks or []:
            rows, columns = mask.bitmap.shape
            if mask.left < 0 or mask.top < 0 or mask.left + columns > width or mask.top + rows > height:
                return f"a mask outside image {index}"
    return ""


def one_line(error: Exception, given: Input) -> str:
    """Whether the message is one line that says where."""
    text = str(error)
    return f"more than a line: {text}" if "\n" in text or not text else ""


def write(root: Path, given: Input) -> Path:
    """Writes the data set."""
    folders = {"coco": "{split}2017", "voc": "JPEGImages", "yolo": "images/{split}"}
    for number, split in enumerate(("train", "train", "val", "val")):
        if given.kind in LOOKED_FOR:
            break
        folder = root / folders[given.kind].format(split=split)
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 12, 3), np.uint8)
        Image.fromarray(pixels).resize((WIDTH, HEIGHT)).save(folder / f"{split}{number}.png")
    for file, content in given.files.items():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(content)
    return root


@cache
def laid_out(kind: str) -> dict[str, bytes]:
    """All files of a sound data set in a layout that is looked for."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        WRITERS[kind](root, PICTURES)
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
        }


def genuine(kind: str) -> dict[str, bytes]:
    """The files of a sound data set of two images a split, with three objects each."""
    if kind in LOOKED_FOR:
        return dict(laid_out(kind))
    boxes = [(10, 12, 30, 20), (40, 8, 25, 30), (5, 40, 60, 20)]
    texts: dict[str, str] = {}
    for split, numbers in (("train", (0, 1)), ("val", (2, 3))):
        if kind == "coco":
            texts[f"annotations/instances_{split}2017.json"] = json.dumps(coco(split, numbers, boxes))
        if kind == "voc":
            texts[f"ImageSets/Main/{split}.txt"] = "".join(f"{split}{n}\n" for n in numbers)
        for number in numbers:
            stem = f"{split}{number}"
            if kind == "voc":
                objects = "".join(
                    f"<object><name>{'cat' if i else 'dog'}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>"
                    f"<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
                    for i, (x, y, w, h) in enumerate(boxes)
                )
                size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
                texts[f"Annotations/{stem}.xml"] = f"<annotation>{size}{objects}</annotation>"
            if kind == "yolo":
                texts[f"labels/{split}/{stem}.txt"] = "".join(
                    f"{min(i, 1)} {(x + w / 2) / WIDTH:.6f} {(y + h / 2) / HEIGHT:.6f} {w / WIDTH:.6f} "
                    f"{h / HEIGHT:.6f}\n"
                    for i, (x, y, w, h) in enumerate(boxes)
                )
    if kind == "yolo":
        texts["data.yaml"] = "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: cat\n  1: dog\n"
    return {file: text.encode() for file, text in texts.items()}


def coco(split: str, numbers: tuple[int, ...], boxes: list[tuple[int, ...]]) -> dict[str, Any]:
    """COCO's JSON, with polygons and one mask of run lengths."""
    annotations = [
        {
            "id": 10 * number + i + 1, "image_id": number + 1, "category_id": min(i, 1) + 1, "bbox": [x, y, w, h],
            "area": w * h, "iscrowd": 0, "segmentation": [[x, y, x + w, y, x + w, y + h, x, y + h]],
        }
        for number in numbers for i, (x, y, w, h) in enumerate(boxes)
    ]  # fmt: skip
    annotations[0]["segmentation"] = {"size": [HEIGHT, WIDTH], "counts": runs(*boxes[0])}
    return {
        "images": [
            {"id": n + 1, "file_name": f"{split}{n}.png", "height": HEIGHT, "width": WIDTH} for n in numbers
        ],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
    }


def runs(x: int, y: int, w: int, h: int) -> list[int]:
    """Run lengths of a rectangle."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    flat = np.concatenate([[0], mask.ravel(order="F")])
    return np.diff(np.concatenate([[0], np.flatnonzero(np.diff(flat)), [mask.size]])).tolist()
