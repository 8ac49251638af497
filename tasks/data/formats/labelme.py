"""labelme's files: a JSON file for each image, beside it or in a folder of their own.

Shapes with a label and an area become objects: rectangles, polygons, circles and masks; shapes of one label and one
`group_id` are one object. Points and lines are left out. What the file holds of the image itself is not looked at.
"""

import base64
import binascii
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.formats.file_names import check_inside, is_file_name
from tasks.data.formats.labelled import (
    LabelledFiles,
    LabelledObject,
    Labels,
    box_around,
    box_between,
    ellipse,
    file_by_file,
    parse_json,
    pasted_mask,
    usable_name,
)
from tasks.data.formats.values import to_number, to_size
from tasks.data.loading.images import DEFAULT_READING, open_image
from tasks.data.loading.storage import ImageStorage, open_images
from tasks.data.quality.issues import BAD_SEGMENTATION

NO_AREA = {"point", "points", "line", "linestrip"}


class LabelmeData(LabelledFiles):
    """Boxes, and with `masks` polygons and masks, of the images that have a JSON file of labelme's."""

    in_folders = True

    def parse(self, annotations: Path, storage: ImageStorage) -> Labels:
        labels, store = Labels(), open_images(annotations, self.reading)
        for path, image, is_paired in file_by_file(labels, annotations, store, ".json", storage):
            try:
                check_inside(path, store)
                content = parse_json(path, self.reading.max_bytes)
                if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                    raise ValueError(f"'{path}' is JSON but not labelme's: it has no list 'shapes'")
            except (FileNotFoundError, ValueError) as error:
                image.unreadable = image.unreadable or str(error)
                continue
            named = content.get("imagePath")
            if not is_paired and is_file_name(named):
                image.file = str(named)
            image.size = to_size(content.get("imageHeight"), content.get("imageWidth"))
            image.objects = read_shapes(content["shapes"], image.size, labels)
        return labels


def read_shapes(shapes: list[Any], size: tuple[int, int], labels: Labels) -> list[LabelledObject]:
    """The objects that the shapes of one image of `size` (height, width) make."""
    objects: list[LabelledObject] = []
    of_group: dict[tuple[str, str], LabelledObject] = {}
    for shape in shapes:
        if not isinstance(shape, dict):
            labels.left_out["shapes that are none"] += 1
            continue
        kind = str(shape.get("shape_type") or "polygon")
        if kind in NO_AREA:
            labels.left_out[f"shapes of type {kind}"] += 1
            continue
        found = read_shape(shape, kind, size)
        group = shape.get("group_id")
        if group is not None and isinstance(found.mask, list):
            whole = of_group.setdefault((found.name, str(group)), found)
            if whole is not found:
                whole.mask = [*whole.mask, *found.mask]
                whole.box = box_around(whole.mask)
                continue
        objects.append(found)
    return objects


def read_shape(shape: dict[str, Any], kind: str, size: tuple[int, int]) -> LabelledObject:
    """One shape."""
    name = usable_name(shape.get("label"))
    points = shape.get("points")
    points = points if isinstance(points, list) else []
    numbers = [[to_number(v) for v in p] if isinstance(p, list) else [] for p in points]
    if any(len(p) != 2 for p in numbers):
        return LabelledObject(name, box_around([]))
    flat = [v for p in numbers for v in p]
    if kind == "rectangle" and len(numbers) == 2:
        return LabelledObject(name, box_between(*flat))
    if kind == "circle" and len(numbers) == 2:
        (cx, cy), (x, y) = numbers
        radius = float(np.hypot(x - cx, y - cy))
        return LabelledObject(
            name, [cx - radius, cy - radius, 2 * radius, 2 * radius], [ellipse(cx, cy, radius, radius)]
        )
    if kind == "mask" and len(numbers) == 2:
        return read_mask(name, shape.get("mask"), flat, size)
    if kind == "rectangle":
        return LabelledObject(name, box_around([flat]))
    return LabelledObject(name, box_around([flat]), [flat])


def read_mask(name: str, content: Any, corners: list[float], size: tuple[int, int]) -> LabelledObject:
    """A mask as a PNG in base64 whose corner is the first point."""
    box = box_between(*corners)
    try:
        with open_image(base64.b64decode(content, validate=True), "mask", DEFAULT_READING) as image:
            bitmap = np.asarray(image.convert("L") if image.mode not in ("1", "L") else image)
        left, top = round(box[0]), round(box[1])
        tight, runs = pasted_mask(bitmap, left, top, size)
    except (ValueError, TypeError, OSError, OverflowError, binascii.Error):
        return LabelledObject(name, box, issue=(BAD_SEGMENTATION, "its mask is no PNG in base64"))
    return LabelledObject(name, box if runs is None else tight, runs)
