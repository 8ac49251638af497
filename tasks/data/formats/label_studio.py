"""Label Studio's JSON and JSON-MIN: a list of tasks, each an image with regions in percent of its sides.

Rectangles, polygons, ellipses and brush strokes become objects; what is no region is left out. Of several annotations
of an image the one marked as ground truth counts, else the first that was not cancelled.
"""

from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from tasks.data.formats.file_names import is_file_name
from tasks.data.formats.labelled import (
    LabelledFiles,
    LabelledImage,
    LabelledObject,
    Labels,
    box_around,
    ellipse,
    parse_json,
    pasted_mask,
    ring_of,
    turned,
    usable_name,
)
from tasks.data.formats.values import to_number, to_size
from tasks.data.loading.images import MAX_PIXELS, SUFFIXES
from tasks.data.loading.storage import ImageStorage
from tasks.data.quality.issues import BAD_SEGMENTATION

MAX_BYTES = 2**29
IMAGE_KEYS = ("image", "img", "ocr", "picture", "photo")
"""Where a task usually names its image."""
NAMES = ("rectanglelabels", "polygonlabels", "brushlabels", "ellipselabels", "labels", "hypertextlabels")


class LabelStudioData(LabelledFiles):
    """Boxes, and with `masks` outlines and strokes, of the images of a JSON export."""

    def parse(self, annotations: Path, storage: ImageStorage) -> Labels:
        content = parse_json(annotations, MAX_BYTES)
        if not isinstance(content, list) or not all(isinstance(task, dict) for task in content):
            raise ValueError(f"'{annotations}' is JSON but not Label Studio's: it is no list of tasks")
        labels, several, unlabelled = Labels(), 0, 0
        for number, task in enumerate(content):
            file = image_of(task)
            if file is None:
                raise ValueError(f"'{annotations}': task {number} names no image, which its 'data' should")
            done = annotations_of(task)
            if not done:
                unlabelled += 1
                continue
            several += len(done) > 1
            labels.images.append(read_regions(file, done[0], labels))
        if several:
            labels.notes.append(f"{several} images have several annotations, of which one each is read")
        if unlabelled:
            labels.notes.append(f"{unlabelled} of {len(content)} tasks have no annotation and are left out")
        return labels


def image_of(task: dict[str, Any]) -> str | None:
    """The path of a task's image, without the address that it was uploaded or is served at; None without one."""
    data = task.get("data") if isinstance(task.get("data"), dict) else task
    assert isinstance(data, dict)
    texts = {key: value for key, value in data.items() if isinstance(value, str) and is_file_name(value)}
    named = [texts[key] for key in IMAGE_KEYS if key in texts]
    pictures = [value for value in texts.values() if PurePosixPath(path_of(value)).suffix.lower() in SUFFIXES]
    return next((path_of(value) for value in [*named, *pictures] if path_of(value)), None)


def path_of(address: str) -> str:
    """The path in an address; that of `?d=` where files of a folder are served."""
    try:
        parts = urlsplit(address.replace("\\", "/"))
        served = parse_qs(parts.query).get("d")
    except ValueError:
        return address
    if served:
        return unquote(served[0]).lstrip("/")
    return (unquote(parts.path) if parts.scheme or address.startswith("/") else address).lstrip("/")


def annotations_of(task: dict[str, Any]) -> list[list[Any]]:
    """The regions of each annotation, the one that counts first. Of JSON-MIN those that stand right in the task."""
    listed = task.get("annotations", task.get("completions"))
    if isinstance(listed, list):
        usable = [a for a in listed if isinstance(a, dict) and isinstance(a.get("result"), list)]
        usable = [a for a in usable if not a.get("was_cancelled")]
        return [a["result"] for a in sorted(usable, key=lambda a: not a.get("ground_truth"))]
    regions = [
        {"value": region, **{k: region[k] for k in ("original_width", "original_height") if k in region}}
        for value in task.values()
        if isinstance(value, list)
        for region in value
        if isinstance(region, dict)
    ]
    return [regions] if regions or "annotator" in task else []


def read_regions(file: str, regions: list[Any], labels: Labels) -> LabelledImage:
    """The image and its objects. What a region is called may stand in a region of its own with the same id."""
    image = LabelledImage(file, in_fractions=True)
    names = {r.get("id"): name for r in regions if isinstance(r, dict) and (name := name_of(r))
             and isinstance(r.get("id"), str)}  # fmt: skip
    seen: set[tuple[Any, ...]] = set()
    for region in regions:
        if not isinstance(region, dict) or not isinstance(value := region.get("value"), dict):
            labels.left_out["regions that are none"] += 1
            continue
        size = to_size(region.get("original_height"), region.get("original_width"))
        if min(image.size) < 1:
            image.size = size
        key = region.get("id") if isinstance(region.get("id"), str) else None
        name = name_of(region) or names.get(key, "")
        shape = shape_of(value)
        if shape is None:
            if not name:
                labels.left_out[f"regions of type {region.get('type')!s:.40}"] += 1
            continue
        identity = (
            key,
            shape,
            *map(str, value.get("points", ()) if isinstance(value.get("points"), list) else ()),
        )
        if key is not None and identity in seen:  # the same region once more, to carry its name
            continue
        seen.add(identity)
        if more := num_more_names(region):
            labels.left_out["further classes of regions"] += more
        image.objects.append(read_shape(name, shape, value, size))
    return image


def name_of(region: dict[str, Any]) -> str:
    """The class of a region, the first where it has several; "" where it has none."""
    value = region.get("value")
    if not isinstance(value, dict):
        return ""
    found = [value[key] for key in NAMES if isinstance(value.get(key), list) and value[key]]
    return usable_name(found[0][0]) if found else ""


def num_more_names(region: dict[str, Any]) -> int:
    """How many classes a region has beside its first."""
    value = region.get("value")
    if not isinstance(value, dict):
        return 0
    return sum(len(value[key]) - 1 for key in NAMES if isinstance(value.get(key), list) and value[key])


def shape_of(value: dict[str, Any]) -> str | None:
    """What kind of region a value is; None for none with an area."""
    if "rle" in value:
        return "brush"
    if "points" in value:
        return "polygon"
    if {"radiusX", "radiusY"} <= value.keys():
        return "ellipse"
    return "rectangle" if {"x", "y", "width", "height"} <= value.keys() else None


def read_shape(name: str, shape: str, value: dict[str, Any], size: tuple[int, int]) -> LabelledObject:
    """The object of a region, in fractions of the image's sides; `size` (height, width) is its image's, if known."""
    height, width = size
    if shape == "brush":
        return read_strokes(name, value.get("rle"), size)
    if shape == "polygon":
        points = value["points"] if isinstance(value["points"], list) else []
        ring = [v / 100 for v in ring_of([point if isinstance(point, list) else [] for point in points])]
        return LabelledObject(name, box_around([ring]), [ring])
    degrees = to_number(value.get("rotation") or 0)
    x, y = to_number(value.get("x")) / 100, to_number(value.get("y")) / 100
    # Turning keeps angles in pixels, not in fractions of unequal sides.
    sides = np.array([width, height], np.float64) if min(size) > 0 else np.ones(2)
    if shape == "ellipse":
        rx, ry = to_number(value["radiusX"]) / 100, to_number(value["radiusY"]) / 100
        ring = np.array(ellipse(x * sides[0], y * sides[1], rx * sides[0], ry * sides[1], degrees))
        ring = (ring.reshape(-1, 2) / sides).reshape(-1).tolist()
        return LabelledObject(name, box_around([ring]), [ring])
    w, h = to_number(value["width"]) / 100, to_number(value["height"]) / 100
    if degrees == 0:
        return LabelledObject(name, [x, y, w, h])
    corners = np.array([[0, 0], [w, 0], [w, h], [0, h]]) * sides  # turned around the first of them
    turned_corners = np.array(turned(corners, (x * sides[0], y * sides[1]), degrees)).reshape(-1, 2)
    ring = (turned_corners / sides).reshape(-1).tolist()
    return LabelledObject(name, box_around([ring]), [ring])


def read_strokes(name: str, runs: Any, size: tuple[int, int]) -> LabelledObject:
    """Brush strokes: the opacity of each pixel of an RGBA picture of `size`, run-length encoded."""
    height, width = size
    try:
        if not 0 < height * width <= MAX_PIXELS:
            raise ValueError("strokes on an image of unknown size")
        if not isinstance(runs, list):
            raise ValueError("run lengths that are no list")
        opacity = decode_runs(bytes(runs), 4 * height * width).reshape(height, width, 4)[:, :, 3]
    except (ValueError, TypeError) as error:
        return LabelledObject(name, box_around([]), issue=(BAD_SEGMENTATION, str(error)))
    box, mask = pasted_mask(opacity, 0, 0, size)
    x, y, w, h = box
    return LabelledObject(name, [x / width, y / height, w / width, h / height], mask)


def decode_runs(content: bytes, expected: int) -> np.ndarray:
    """uint8 (expected,): values that Label Studio packs bit by bit.

    A head says how many there are (32 bits), of how many bits each is (5 bits, less one) and four widths of counts (4
    bits each, less one). Then one bit says whether a run of one value follows or single values, two which width its
    count has, and the count is one less than their number. Raises ValueError where it is not of that kind.
    """
    place = 0

    def take(count: int) -> int:
        nonlocal place
        end = place + count
        if end > 8 * len(content):
            raise ValueError("run lengths that end too early")
        held = int.from_bytes(content[place // 8 : (end + 7) // 8], "big")
        place = end
        return (held >> (-end % 8)) & ((1 << count) - 1)

    total, width = take(32), take(5) + 1
    widths = [take(4) + 1 for _ in range(4)]
    if total != expected:
        raise ValueError(f"run lengths of {total} values, where the image has {expected}")
    values, done = np.zeros(total, np.uint8), 0
    while done < total:
        is_run = take(1)
        count = take(widths[take(2)]) + 1
        if done + count > total:
            raise ValueError("run lengths of more values than the image has")
        if is_run:
            values[done : done + count] = take(width) & 255
        else:
            values[done : done + count] = [take(width) & 255 for _ in range(count)]
        done += count
    return values
