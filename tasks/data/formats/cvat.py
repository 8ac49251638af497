"""CVAT's "CVAT for images 1.1": one annotations.xml for many images.

Boxes, polygons, masks and ellipses become objects, turned ones with their outline; polylines, points, cuboids,
skeletons and tags are left out.
"""

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from tasks.data.formats.labelled import (
    LabelledFiles,
    LabelledImage,
    LabelledObject,
    Labels,
    box_around,
    ellipse,
    parse_xml,
    pasted_mask,
    ring_of,
    turned,
)
from tasks.data.formats.values import to_integer, to_number, to_size
from tasks.data.loading.images import MAX_PIXELS
from tasks.data.loading.storage import ImageStorage
from tasks.data.quality.issues import BAD_SEGMENTATION

MAX_BYTES = 2**29
"""Of an annotations.xml."""
PIXELS, PIXELS_PER_CHARACTER = 200_000_000, 2000
"""Of masks that are unpacked: a few large ones of few runs, and what others come to by far. A second is 60 million."""
AREA_LABELS = {"", "any", "rectangle", "polygon", "mask", "ellipse"}
"""Types of labels whose shapes have an area."""
NOT_SHAPES = {"attribute"}


class CvatData(LabelledFiles):
    """Boxes, and with `masks` outlines and masks, of the images that an annotations.xml lists."""

    def parse(self, annotations: Path, storage: ImageStorage) -> Labels:
        root = parse_xml(annotations, "annotations", "CVAT's for images", MAX_BYTES)
        if root.find("track") is not None and root.find("image") is None:
            raise ValueError(
                f"'{annotations}' is CVAT's format for video; export the task as CVAT for images 1.1"
            )
        declared = [
            (label.findtext("name") or "").strip()
            for label in root.iter("label")
            if (label.findtext("type") or "").strip() in AREA_LABELS and label.find("parent") is None
        ]
        labels = Labels(classes=[name for name in dict.fromkeys(declared) if name])
        room = PIXELS
        for number, element in enumerate(root.iter("image")):
            file = (element.get("name") or "").strip()
            if not file or "\0" in file:
                raise ValueError(f"'{annotations}': image {number} has no name; wanted that of its file")
            image = LabelledImage(file, to_size(element.get("height"), element.get("width")))
            for shape in element:
                if shape.tag == "mask":
                    room += PIXELS_PER_CHARACTER * len(shape.get("rle") or "") - claimed(shape)
                    if room < 0:
                        image.objects.append(
                            unread(shape, "its rle stands for more pixels than files of its size do")
                        )
                        continue
                if shape.tag in SHAPES:
                    image.objects.append(SHAPES[shape.tag](shape, image.size))
                elif shape.tag not in NOT_SHAPES:
                    labels.left_out[f"{shape.tag!s:.40}"] += 1
            labels.images.append(image)
        if tracks := len(root.findall("track")):
            labels.left_out["track"] += tracks
        return labels


def numbers(shape: ElementTree.Element, *names: str) -> list[float]:
    """Attributes as numbers."""
    return [to_number(shape.get(name)) for name in names]


def read_box(shape: ElementTree.Element, size: tuple[int, int]) -> LabelledObject:
    """A box, which may be turned around its centre."""
    x1, y1, x2, y2 = numbers(shape, "xtl", "ytl", "xbr", "ybr")
    degrees = to_number(shape.get("rotation") or 0)
    if degrees in (0, 360):
        return LabelledObject(label_of(shape), [x1, y1, x2 - x1, y2 - y1])
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [(x2 - x1) / 2, (y2 - y1) / 2]
    ring = turned(half, ((x1 + x2) / 2, (y1 + y2) / 2), degrees)
    return LabelledObject(label_of(shape), box_around([ring]), [ring])


def read_polygon(shape: ElementTree.Element, size: tuple[int, int]) -> LabelledObject:
    """A polygon, `x,y;x,y;…`."""
    ring = ring_of([point.split(",") for point in (shape.get("points") or "").split(";")])
    return LabelledObject(label_of(shape), box_around([ring]), [ring])


def read_ellipse(shape: ElementTree.Element, size: tuple[int, int]) -> LabelledObject:
    """An ellipse, which may be turned."""
    cx, cy, rx, ry = numbers(shape, "cx", "cy", "rx", "ry")
    ring = ellipse(cx, cy, rx, ry, to_number(shape.get("rotation") or 0))
    return LabelledObject(label_of(shape), box_around([ring]), [ring])


def read_mask(shape: ElementTree.Element, size: tuple[int, int]) -> LabelledObject:
    """A mask: lengths of runs, row by row, of a rectangle that begins with zeros."""
    left, top, width, height = (to_integer(shape.get(name)) for name in ("left", "top", "width", "height"))
    runs = [to_integer(v) for v in (shape.get("rle") or "").split(",")]
    is_sound = (
        left is not None and top is not None and width is not None and height is not None
        and 0 < width <= MAX_PIXELS and 0 < height <= MAX_PIXELS // width
        and all(run is not None and run >= 0 for run in runs)
        and sum(run or 0 for run in runs) == width * height
    )  # fmt: skip
    if not is_sound:
        return unread(shape, "its rle does not fill its rectangle")
    assert left is not None and top is not None and width is not None and height is not None
    values = (np.arange(len(runs)) % 2).astype(np.uint8)
    bitmap = np.repeat(values, np.array(runs, np.int64))
    box, mask = pasted_mask(bitmap.reshape(height, width), left, top, size)
    return LabelledObject(label_of(shape), [left, top, width, height] if mask is None else box, mask)


def claimed(shape: ElementTree.Element) -> int:
    """The pixels of a mask's rectangle."""
    return max(0, to_integer(shape.get("width")) or 0) * max(0, to_integer(shape.get("height")) or 0)


def unread(shape: ElementTree.Element, why: str) -> LabelledObject:
    """The object of a mask that cannot be used, with its rectangle."""
    box = numbers(shape, "left", "top", "width", "height")
    return LabelledObject(label_of(shape), box, issue=(BAD_SEGMENTATION, why))


def label_of(shape: ElementTree.Element) -> str:
    """The name of the shape's class."""
    return (shape.get("label") or "").strip()


SHAPES: dict[str, Callable[[ElementTree.Element, tuple[int, int]], LabelledObject]] = {
    "box": read_box,
    "polygon": read_polygon,
    "ellipse": read_ellipse,
    "mask": read_mask,
}
"""By tag."""
