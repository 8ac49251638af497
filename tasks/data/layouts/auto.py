"""`data=auto`: which layout the data in a folder or an archive has, in one line, and the source that reads it so."""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack, get_args, get_origin, get_type_hints

import numpy as np

from tasks.data import FORMATS
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.annotations.objects import Annotations
from tasks.data.formats.object_files import ObjectFiles, ObjectOptions
from tasks.data.layouts import objects, pictures
from tasks.data.layouts.found import Found, UnclearError
from tasks.data.layouts.listing import Listing, list_data
from tasks.data.sources import Source
from tasks.data.splits import SPLITS, SplitName

LAYOUTS: Mapping[str, tuple[Callable[[Listing], Iterator[Found]], str]] = {
    "coco": (
        objects.coco,
        "COCO: a JSON file with 'images', 'annotations' and 'categories', and a folder of its images",
    ),
    "voc": (objects.voc, "Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/train.txt"),
    "xml": (
        objects.xml_files,
        "LabelImg: an XML file (<annotation>) for each picture, beside it or in another folder",
    ),
    "yolo": (objects.yolo, "YOLO: a data.yaml, or a text file 'class cx cy w h' for each picture"),
    "labelme": (objects.labelme, "labelme: a JSON file with 'shapes' for each picture"),
    "cvat": (objects.cvat, "CVAT: annotations.xml in its format for images 1.1, and the images"),
    "label_studio": (objects.label_studio, "Label Studio: its JSON export, a list of tasks, and the images"),
    "csv": (objects.csv_boxes, "CSV: a header such as filename,class,xmin,ymin,xmax,ymax, and the images"),
    "mask_png": (
        pictures.masks,
        "masks: PNG files of class numbers, named as their images, in a folder called masks or the like",
    ),
    "image_folder": (
        pictures.image_folders,
        "classification: a folder of images for each class, or train/ and val/ of such",
    ),
}
"""By format: what finds it, and what it needs."""
SERVES = {
    "detection": ("objects",),
    "instance_segmentation": ("objects",),
    "semantic_segmentation": ("class maps", "objects"),
    "classification": ("classes",),
}
"""The kinds of annotations that a task can use."""
GROUPS_FILE = "groups.csv"
ON_INVALID = "fix_few"
"""Of data that was looked for: where little is wrong it is fixed or left out, and training says so."""


class AutoOptions(ObjectOptions, total=False):
    """The settings that formats have in common."""

    classes: Any


def open_folder(
    root: str | Path, *, format: str | None = None, task: str | None = None, **options: Unpack[AutoOptions]
) -> Source[Any]:
    """The data set in a folder in whatever layout it is; `describe` of it says what was found.

    Args:
        root: the folder, the tar or zip file, or the annotation file with its images beside it.
        format: chooses where several layouts fit.
        task: what the data is for; layouts that it cannot use are left out.
        classes: names by label, of formats that take them.
        options: other settings of the format that is found.

    Raises:
        FileNotFoundError: there is no such place.
        ValueError: no layout fits, with what there is and what would be needed, or several do, with which.
    """
    found = find(root, format=format, task=task)
    settings = settings_of(found, options)
    module, attribute = FORMATS[found.format].split(":")
    source = getattr(importlib.import_module(module), attribute)(**settings)
    source.layout, source.opened_as = layout_line(found), (found.format, settings)
    return source


def find(root: str | Path, *, format: str | None = None, task: str | None = None) -> Found:
    """The one reading of what is at `root`, whose options have the root of the format. Raises as `open_folder`."""
    if format is not None and format not in LAYOUTS:
        raise ValueError(
            f"data.format={format} is not a layout that is looked for; wanted one of {', '.join(LAYOUTS)}"
        )
    listing = list_data(Path(root).expanduser())
    readings: list[Found] = []
    for name, (look, _) in LAYOUTS.items():
        if format in (None, name):
            try:
                readings += look(listing)
            except UnclearError as error:
                raise ValueError(f"data.root={root}: {error}") from None
    if task in SERVES:
        others = [r for r in readings if r.format != "image_folder"]  # folders of pictures may be anything
        readings = [r for r in readings if r.kind in SERVES[task]] or others
    if len(readings) > 1 and any(r.format != "image_folder" for r in readings):
        readings = [r for r in readings if r.format != "image_folder"]
    if not readings:
        raise ValueError(hopeless(root, listing, format))
    if len(readings) > 1:
        raise ValueError(several(root, readings))
    found = readings[0]
    found.options["root"] = str(listing.root / found.options.get("root", "."))
    if "split" in found.options and GROUPS_FILE in listing.names:
        found.options["groups"] = GROUPS_FILE
    return found


def several(root: str | Path, readings: Sequence[Found]) -> str:
    """What is said of data that more than one reading fits."""
    if len({r.format for r in readings}) < len(readings):
        places = [str(Path(root) / r.options.get("root", ".")) for r in readings]
        return f"data.root={root} holds {len(readings)} data sets; choose one with " + " or ".join(
            f"data.root={place}" for place in places
        )
    ways = " and as ".join(f"{r.words} (data.format={r.format})" for r in readings)
    return f"data.root={root} can be read as {ways}; choose one with " + " or ".join(
        f"data.format={r.format}" for r in readings
    )


def hopeless(root: str | Path, listing: Listing, format: str | None) -> str:
    """What is said of data that no reading fits."""
    seen = listing.seen()
    labels = [n for e in (".json", ".xml", ".txt", ".csv") for n in listing.by_ending.get(e, ())]
    labels = [n for n in labels if not n.lower().startswith(("readme", "license", "requirements"))]
    needs = [needed for name, (_, needed) in LAYOUTS.items() if format in (None, name)]
    wanted = "wanted " + "; or ".join(needs)
    if not listing.names:
        return f"data.root={root} is empty; {wanted}"
    if listing.images and not labels:
        return (
            f"data.root={root} has {len(listing.images)} pictures and no labels ({seen}): to find objects in them with "
            f"a trained model, use predict: vertebra predict checkpoint=… source={root}; to train, label them: {wanted}"
        )
    if labels and not listing.images:
        return (
            f"data.root={root} has {len(labels)} files that may be labels ('{labels[0]}') and no pictures ({seen}); "
            f"put the pictures beside them: {wanted}"
        )
    return f"data.root={root} fits no layout that is known: {seen}; {wanted}"


def settings_of(found: Found, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the format, those given before those found. Raises ValueError for one that it does not have."""
    known = arguments(found.format)
    if unknown := [key for key in given if key not in known]:
        raise ValueError(
            f"data.{unknown[0]} is no setting of {found.words} (data={found.format}); it has {', '.join(sorted(known))}"
        )
    usual = {"on_invalid": ON_INVALID} if "on_invalid" in known else {}
    return {**usual, **found.options, **{key: value for key, value in given.items() if value is not None}}


def arguments(format: str) -> set[str]:
    """Names of the settings of a format."""
    module, attribute = FORMATS[format].split(":")
    make = getattr(importlib.import_module(module), attribute)
    found: set[str] = set()
    for name, parameter in inspect.signature(make).parameters.items():
        kind = parameter.annotation
        found |= set(get_type_hints(get_args(kind)[0])) if get_origin(kind) is Unpack else {name}
    return found


def layout_line(found: Found) -> str:
    """What was found, without counts."""
    notes = list(found.notes)
    if "split" in found.options:
        kept = "near copies together"
        if "groups" in found.options:
            kept += f" and groups by {found.options['groups']}"
        notes.append(
            f"no splits of its own: split {found.options['split']} into train and val, by class and {kept} "
            "(data.split=, data.group_pattern=)"
        )
    return "; ".join([found.words, *notes])


def describe(source: Source[Any], splits: Sequence[SplitName] = SPLITS) -> str:
    """One line: what was found and how much of it, as far as it can be read; "" of a source that was not looked for."""
    if not getattr(source, "layout", ""):
        return ""
    words, *notes = source.layout.split("; ")
    counts: list[str] = []
    names: list[str] = []
    for split in splits:
        try:
            if source.has_split(split):
                counts.append(f"{split} {num_images(source, split)}")
                names = names or list(source.class_names)
        except (OSError, ValueError):
            continue
    if counts:
        some = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        classes = f"{len(names)} classes" if len(names) != 1 else "1 class"
        words += f": {', '.join(counts)} images; {classes} ({some})"
    if alone := only_in_val(source):
        notes.append(f"in val alone, so that nothing of it can be learned: {', '.join(alone)}")
    return "; ".join([words, *notes])


def num_images(source: Source[Any], split: SplitName) -> int:
    """Images of a split; of one of objects that was not read yet, as its files say."""
    if isinstance(source, ObjectFiles) and split not in source._splits:
        return len(source.raw(split))
    return len(source.split(split))


def only_in_val(source: Source[Any]) -> list[str]:
    """Classes that the validation split shows and the training split does not, of splits that were read."""
    if not {"train", "val"} <= set(source._splits):
        return []
    shown = []
    for split in ("train", "val"):
        annotations = source._splits[split].annotations
        if not isinstance(annotations, Annotations | ImageLabels):
            return []
        shown.append(set(np.unique(annotations.labels).tolist()))
    return [source.class_names[label] for label in sorted(shown[1] - shown[0])]
