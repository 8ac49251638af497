"""Sound data sets for the tests of known cases, and what the doctor says of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks.data.formats.coco import CocoData
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tasks.data.quality.report import examine
from tasks.preprocessing import Preprocessing
from tests.fuzz.annotations import HEIGHT, WIDTH, Input, genuine, write

PREPROCESSING = Preprocessing(short_side=HEIGHT, max_size=WIDTH)
TRAIN = "annotations/instances_train2017.json"
SOURCES: dict[str, Callable[..., Any]] = {"coco": CocoData, "voc": VocData, "yolo": YoloData}


def sound(root: Path, kind: str, **files: str) -> Path:
    """A sound data set of two images and six objects a split; `files` are of YOLO's or VOC's, by stem."""
    content = genuine(kind)
    return write(root, Input("", kind, content))


def edit(root: Path, change: Callable[[dict[str, Any]], Any], file: str = TRAIN) -> Path:
    content = json.loads((root / file).read_text())
    change(content)
    (root / file).write_text(json.dumps(content))
    return root


def each(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Sets these fields of every annotation."""
    return lambda content: [a.update(values) for a in content["annotations"]] and None


def issues(source: Any) -> set[str]:
    return {finding.issue.name for finding in examine(source, PREPROCESSING).findings}


def texts(source: Any) -> str:
    return " | ".join(f"{f.issue.name}: {f}" for f in examine(source, PREPROCESSING).findings)
