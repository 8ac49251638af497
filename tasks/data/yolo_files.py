"""The files of a data set in YOLO's layout: data.yaml, images, and one text file of labels for each image.

<root>/images/train/a.jpg  labels/train/a.txt        or        <root>/train/images/a.jpg  train/labels/a.txt
A line of labels is a class number and then cx, cy, width, height of a box or x, y, x, y, … of a polygon, all in
fractions of the image's sides. An image without a file of labels shows nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tasks.data.images import SUFFIXES
from tasks.data.stores import in_archive, is_file, is_folder, open_store, read_file, read_lines


@dataclass
class YoloLabels:
    """What one file of labels says; N objects."""

    classes: list[int | str]
    """(N,) numbers, or what stands in the place of one."""
    boxes: np.ndarray
    """(N, 4) float64 x, y, width, height in fractions; NaN where the line is neither a box nor a polygon."""
    rings: list[list[float] | None]
    """(N,) polygons in fractions; None for a box alone."""


def read_data_yaml(path: Path) -> dict[str, Any]:
    """The mapping in data.yaml with its "names" as a list by class number.

    Raises FileNotFoundError or ValueError, naming the file, where it is not there or not of that kind.
    """
    try:
        content = yaml.safe_load(read_file(path).decode("utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no '{path}', which says where the images of a YOLO data set are and names its classes; give "
            "the folder that holds it with data.root=, or its name with data.file="
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"'{path}' is no YAML that can be read ({reason}); correct it") from None
    names = content.get("names") if isinstance(content, dict) else None
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise ValueError(f"'{path}' numbers its names {sorted(names)[:8]}; wanted 0, 1, … without gaps")
        names = [names[number] for number in range(len(names))]
    if not isinstance(names, list) or not names:
        raise ValueError(
            f"'{path}' has no 'names', a list of the classes in the order of their numbers; add it"
        )
    names = [str(name) for name in names]
    if len(set(names)) < len(names):
        raise ValueError(f"'{path}' names a class twice: {', '.join(names)}; each needs a name of its own")
    return {**content, "names": names}


def list_images(base: Path, entry: Any, folder: Path, option: str) -> list[str]:
    """Images of what data.yaml says of a split: a folder, a text file of paths, or several, relative to `base`.

    The images' paths are relative to `folder`, or absolute where they lie outside. Raises FileNotFoundError or
    ValueError, naming `option`, where there are none.
    """
    files: list[str] = []
    for place in entry if isinstance(entry, list) else [entry]:
        path = base / str(place)
        if is_folder(path):
            found = (name for name in open_store(path).names() if Path(name).suffix.lower() in SUFFIXES)
            files += sorted(_relative(path / name, folder) for name in found)
        elif is_file(path):
            places = (
                path.parent / line if line.startswith("./") else base / line for line in read_lines(path)
            )
            files += [_relative(p, folder) for p in places]
        else:
            raise FileNotFoundError(
                f"'{path}', the place of {option} in data.yaml, does not exist; correct it there (relative to its "
                "'path', or to data.yaml itself)"
            )
    if not files:
        raise ValueError(f"{option} in data.yaml, '{entry}', holds no images; correct it there, or add some")
    return files


def label_file(image: Path) -> Path:
    """Where the labels of an image are: the last folder called images becomes labels.

    Those of an image in an archive are in the same archive, or beside it, as if the archive were a folder of its name
    or had been unpacked where it lies."""
    place = in_archive(image)
    if place is None:
        return _in_labels(image)
    archive, inner = place
    places = (image, archive.with_suffix("") / inner, archive.parent / inner)
    return next((path for path in map(_in_labels, places) if is_file(path)), _in_labels(image))


def _in_labels(image: Path) -> Path:
    parts = list(image.with_suffix(".txt").parts)
    for place in reversed(range(len(parts) - 1)):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return Path(*parts)


def read_labels(path: Path) -> YoloLabels:
    """What the file says; nothing where there is none. Raises ValueError for one that is no text."""
    labels = YoloLabels([], np.zeros((0, 4)), [])
    if not is_file(path):
        return labels
    try:
        lines = [line.split() for line in read_lines(path)]
    except (UnicodeDecodeError, OSError) as error:
        raise ValueError(f"labels '{path}' cannot be read ({error})") from None
    boxes = []
    for words in lines:
        labels.classes.append(int(words[0]) if words[0].isdigit() else words[0])
        try:
            values = [float(word) for word in words[1:]]
        except ValueError:
            values = []
        box, ring = [float("nan")] * 4, None
        if len(values) == 4:
            box = [values[0] - values[2] / 2, values[1] - values[3] / 2, values[2], values[3]]
        elif len(values) > 5:
            ring = values
            xs, ys = values[0::2], values[1::2]
            box = [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)]
        boxes.append(box)
        labels.rings.append(ring)
    labels.boxes = np.array(boxes, np.float64).reshape(-1, 4)
    return labels


def ring_area(ring: list[float]) -> float:
    """Area of a polygon; 0 for what is none."""
    if len(ring) % 2 or not np.isfinite(ring).all():
        return 0.0
    x, y = np.array(ring[0::2]), np.array(ring[1::2])
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
