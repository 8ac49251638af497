"""The files of a data set in Pascal VOC's layout: lists of images, one XML file for each, the names of masks.

<root>/JPEGImages/a.jpg  Annotations/a.xml  SegmentationClass/a.png  SegmentationObject/a.png
<root>/ImageSets/Main/train.txt, val.txt, …, and the same in ImageSets/Segmentation for images with masks
"""

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from tasks.data.image_checks import image_size
from tasks.data.images import SUFFIXES
from tasks.data.stores import is_file, is_folder, open_store, read_file, read_lines


@dataclass
class VocImage:
    """What one XML file says; N objects."""

    size: tuple[int, int]
    """(height, width) in pixels."""
    names: list[str]
    """(N,) class of each object."""
    boxes: np.ndarray
    """(N, 4) float64 x, y, width, height, (0, 0) the outer corner of the first pixel; NaN where no numbers are."""
    is_difficult: np.ndarray
    """(N,) bool."""


def read_list(root: Path, kind: str, name: str, option: str) -> list[str]:
    """Names of images, without ending, in `ImageSets/<kind>/<name>.txt`.

    Raises FileNotFoundError, which names `option`, where there is no such list; ValueError for one that is
    empty or names an image twice.
    """
    folder = root / "ImageSets" / kind
    path = folder / f"{name}.txt"
    if not is_file(path):
        present = _stems(folder, (".txt",)) if is_folder(folder) else {}
        there = f"there are {', '.join(list(present)[:8])}" if present else f"'{folder}' holds no lists"
        raise FileNotFoundError(
            f"there is no list of images '{path}' ({there}); write one, a name without ending a line, or choose "
            f"another with {option}="
        )
    names = [line.split()[0] for line in read_lines(path)]
    if not names:
        raise ValueError(f"the list of images '{path}' is empty; write a name without ending on each line")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"the list of images '{path}' names '{twice}' more than once; each image counts once"
        )
    return names


def all_names(root: Path) -> list[str]:
    """Names of all images that have an annotation, sorted. Raises FileNotFoundError where there is none."""
    names = list(_stems(root / "Annotations", (".xml",)))
    if not names:
        raise FileNotFoundError(f"'{root / 'Annotations'}' holds no annotations (.xml) that could be split")
    return names


def image_files(folder: Path, names: list[str]) -> list[str]:
    """File of each image inside `folder`, whatever its ending; ending in .jpg where there is none."""
    present = _stems(folder, SUFFIXES)
    return [present.get(name, f"{name}.jpg") for name in names]


def _stems(folder: Path, endings: Collection[str]) -> dict[str, str]:
    """The files right in `folder`, which may be in an archive, with one of these endings: name by name without it."""
    paths = (PurePosixPath(name) for name in open_store(folder).names() if "/" not in name)
    return {path.stem: path.name for path in paths if path.suffix.lower() in endings}


def read_xml(root: Path, name: str, image: Path) -> VocImage:
    """What `Annotations/<name>.xml` says of the image in the file `image`.

    VOC counts pixels from 1 and its corners are the first and last pixel inside, so that a box from 1 to 640
    is 640 wide. Corners that coincide get the width 0: such boxes are slips and no objects of one pixel. Corners
    that are swapped get the negative width that turns to the right box when it is swapped back, and numbers that
    can only be fractions of the image stay as they are. Raises FileNotFoundError or ValueError, naming the file.
    """
    path = root / "Annotations" / f"{name}.xml"
    try:
        content = ElementTree.fromstring(read_file(path))
    except FileNotFoundError:
        raise FileNotFoundError(f"image '{image.name}' has no annotation: '{path}' does not exist") from None
    except ElementTree.ParseError as error:
        raise ValueError(f"annotation '{path}' is no XML that can be read ({error})") from None
    size = int(_number(content, "size/height", 0)), int(_number(content, "size/width", 0))
    if min(size) < 1:  # some tools leave it out
        size = image_size(image)
    objects = content.findall("object")
    names = [(item.findtext("name") or "").strip() for item in objects]
    if "" in names:
        raise ValueError(f"annotation '{path}' has an object without a name; write its class, or remove it")
    corners = np.array(
        [[_number(item, f"bndbox/{side}") for side in ("xmin", "ymin", "xmax", "ymax")] for item in objects]
    ).reshape(-1, 4)
    return VocImage(
        size=size,
        names=names,
        boxes=to_extents(corners),
        is_difficult=np.array([_number(item, "difficult", 0) > 0 for item in objects], bool),
    )


def to_extents(corners: np.ndarray) -> np.ndarray:
    """(N, 4) first and last pixel, counted from 1, to x, y, width, height with (0, 0) the outer corner."""
    first, last = corners[:, :2], corners[:, 2:]
    start = np.where(last >= first, first - 1, first)
    extent = np.where(last > first, last - first + 1, np.where(last < first, last - first - 1, last - first))
    fractions = ((corners >= 0) & (corners <= 1)).all(axis=1) & (corners % 1 != 0).any(axis=1)
    start[fractions], extent[fractions] = first[fractions], (last - first)[fractions]
    return np.concatenate([start, extent], axis=1)


def _number(item: ElementTree.Element, path: str, default: float = float("nan")) -> float:
    """The number in a tag; `default` where there is no tag, NaN where there is no number."""
    text = item.findtext(path)
    try:
        return default if text is None else float(text)
    except ValueError:
        return float("nan")
