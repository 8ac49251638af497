"""A CSV file of boxes, one a line, whose header names its columns; torchvision's and Open Images' names among others.

Corners or a corner and sides, in pixels or in fractions of the image where no number is beyond 1. A line with an image
and no box says that the image shows nothing. Codes of classes, as Open Images has them, are looked up in
`class-descriptions*.csv` beside the file.
"""

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from tasks.data.formats.file_names import is_file_name
from tasks.data.formats.labelled import LabelledFiles, LabelledImage, LabelledObject, Labels
from tasks.data.formats.values import to_flag, to_number
from tasks.data.loading.images import SUFFIXES
from tasks.data.loading.storage import (
    ImageStorage,
    decode_text,
    image_names,
    open_images,
    read_file,
)
from tasks.data.quality.issues import BAD_CROWD

MAX_BYTES = 2**29
NAMES: Mapping[str, tuple[str, ...]] = {
    "file": ("filename", "file", "image", "imageid", "imagepath", "imagename", "imagefile", "path", "filepath", "img",
             "imgpath", "imgname"),
    "label": ("class", "label", "labelname", "classname", "category", "categoryname", "name", "classlabel"),
    "x1": ("xmin", "x1", "left", "xtl", "minx", "bboxxmin", "x0"),
    "y1": ("ymin", "y1", "top", "ytl", "miny", "bboxymin", "y0"),
    "x2": ("xmax", "x2", "right", "xbr", "maxx", "bboxxmax"),
    "y2": ("ymax", "y2", "bottom", "ybr", "maxy", "bboxymax"),
    "x": ("x", "bboxx", "boxx"),
    "y": ("y", "bboxy", "boxy"),
    "w": ("w", "bboxwidth", "boxwidth", "bboxw", "width"),
    "h": ("h", "bboxheight", "boxheight", "bboxh", "height"),
    "is_crowd": ("isgroupof", "iscrowd", "difficult"),
}  # fmt: skip
"""Names of columns, in lower case and letters and digits alone, the likeliest first."""
CODE = ("/m/", "/g/", "/t/")
"""How Open Images' codes of classes begin."""


class CsvData(LabelledFiles):
    """Boxes of the images that a CSV file names."""

    crowds = "groups or difficult"

    def parse(self, annotations: Path, storage: ImageStorage) -> Labels:
        header, rows = read_table(annotations)
        columns = find_columns(header)
        if missing := missing_columns(columns):
            raise ValueError(
                f"'{annotations}' has no column for {' and none for '.join(missing)} ({', '.join(header)[:200]}); name "
                "them in the first line: filename,class,xmin,ymin,xmax,ymax"
            )
        numbers = corners_of(rows, columns)
        finite = numbers[np.isfinite(numbers).all(axis=1)]
        in_fractions = bool(len(finite)) and bool((finite <= 1).all()) and bool((finite % 1 != 0).any())
        by_stem = stems(storage)
        codes = (
            descriptions(annotations)
            if any(cell(row, columns["label"]).startswith(CODE) for row in rows)
            else {}
        )
        images: dict[str, LabelledImage] = {}
        for row, (x1, y1, x2, y2) in zip(rows, numbers.tolist(), strict=True):
            file = cell(row, columns["file"])
            if not is_file_name(file):
                raise ValueError(f"'{annotations}' has a line without an image: '{','.join(row)[:80]}'")
            image = images.setdefault(file, LabelledImage(named(file, by_stem), in_fractions=in_fractions))
            name = cell(row, columns["label"])
            if not name and not any(cell(row, columns.get(key)) for key in ("x1", "y1", "x", "y")):
                continue
            flag = to_flag(cell(row, columns.get("is_crowd")).replace("-1", "0"))
            image.objects.append(
                LabelledObject(
                    codes.get(name, name),
                    [x1, y1, x2 - x1, y2 - y1],
                    is_crowd=bool(flag),
                    issue=(BAD_CROWD, cell(row, columns["is_crowd"])[:40]) if flag is None else None,
                )
            )
        return Labels(list(images.values()))


def read_table(path: Path, num_rows: int | None = None) -> tuple[list[str], list[list[str]]]:
    """The header of a CSV file and its lines, separated by commas, semicolons or tabs.

    Raises ValueError, naming the file, where it is none."""
    lines = re.split("\r\n|\r|\n", decode_text(read_file(path, MAX_BYTES), path))
    lines = [line for line in lines if line.strip()][: None if num_rows is None else num_rows + 1]
    if not lines:
        raise ValueError(f"'{path}' is empty; wanted a CSV file of boxes")
    delimiter = max(",;\t", key=lines[0].count)
    try:
        header, *rows = csv.reader(lines, delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        raise ValueError(f"'{path}' is no CSV that can be read ({error})") from None
    return header, rows


def find_columns(header: Sequence[str]) -> dict[str, int]:
    """The place of each column that is known. Without corners a width is the box's, with them the image's."""
    plain = ["".join(c for c in name.lower() if c.isalnum()) for name in header]
    found = {}
    for key, names in NAMES.items():
        place = next((plain.index(name) for name in names if name in plain), None)
        if place is not None:
            found[key] = place
    if {"x1", "y1", "x2", "y2"} <= found.keys():
        found = {key: place for key, place in found.items() if key not in ("x", "y", "w", "h")}
    else:
        found.update(
            {
                key: found[other]
                for key, other in (("x", "x1"), ("y", "y1"))
                if key not in found and other in found
            }
        )
        found = {key: place for key, place in found.items() if key not in ("x1", "y1", "x2", "y2")}
    return found


def missing_columns(columns: Mapping[str, int]) -> list[str]:
    """What a table of boxes lacks, in words."""
    lacks = [what for key, what in (("file", "the image"), ("label", "the class")) if key not in columns]
    if not {"x1", "y1", "x2", "y2"} <= columns.keys() and not {"x", "y", "w", "h"} <= columns.keys():
        lacks.append("the box")
    return lacks


def corners_of(rows: Sequence[Sequence[str]], columns: Mapping[str, int]) -> np.ndarray:
    """(N, 4) float64 xyxy as written, NaN where no numbers are."""
    keys = ("x1", "y1", "x2", "y2") if "x1" in columns else ("x", "y", "w", "h")
    values = np.array(
        [[to_number(cell(row, columns[key])) for key in keys] for row in rows], np.float64
    ).reshape(-1, 4)
    if keys[0] == "x":
        with np.errstate(over="ignore", invalid="ignore"):
            values[:, 2:] += values[:, :2]
    return values


def cell(row: Sequence[str], place: int | None) -> str:
    """What stands in a column; "" where the line is too short, or there is no such column."""
    return row[place].strip() if place is not None and place < len(row) else ""


def stems(storage: ImageStorage) -> dict[str, str]:
    """The images by their names without folder and ending; without those that two share."""
    found: dict[str, str] = {}
    shared = set()
    for name in image_names(storage):
        stem = PurePosixPath(name).stem
        if found.setdefault(stem, name) != name:
            shared.add(stem)
    return {stem: name for stem, name in found.items() if stem not in shared}


def named(file: str, by_stem: Mapping[str, str]) -> str:
    """The file of an image that the table names, which may lack the ending."""
    return (
        file
        if PurePosixPath(file).suffix.lower() in SUFFIXES
        else by_stem.get(PurePosixPath(file).name, file)
    )


def descriptions(annotations: Path) -> dict[str, str]:
    """Names of classes by their codes, out of `class-descriptions*.csv` in the folder of the annotations."""
    names = [name for name in open_images(annotations.parent).names() if "/" not in name]
    found = [name for name in names if name.startswith("class-descriptions") and name.endswith(".csv")]
    if not found:
        return {}
    header, rows = read_table(annotations.parent / found[0])
    return {
        row[0].strip(): row[1].strip() for row in [header, *rows] if len(row) > 1 and row[0].startswith(CODE)
    }
