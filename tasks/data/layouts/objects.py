"""Layouts of objects with boxes as tools leave them.

Each function looks at a `Listing` and gives the readings that fit it, none where it is of another layout.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tasks.data.formats.csv_boxes import find_columns, missing_columns, read_table
from tasks.data.formats.data_yaml import find_base, find_place, read_data_yaml
from tasks.data.formats.file_names import read_own_lines
from tasks.data.formats.label_studio import IMAGE_KEYS
from tasks.data.formats.yolo import labels_folder
from tasks.data.layouts.found import (
    Found,
    Places,
    UnclearError,
    of_pairs,
    one_a_split,
    settled,
    split_it,
    with_namesakes,
)
from tasks.data.layouts.listing import Listing, folder_of, pair_by_name
from tasks.data.layouts.looks import (
    NUM_SAMPLES,
    best_folder,
    highest_class,
    image_folder,
    is_data_yaml,
    json_kind,
    label_texts,
    unescaped,
    voc_folders,
    xml_kind,
)
from tasks.data.loading.images import Reading
from tasks.data.loading.storage import is_file, is_folder
from tasks.data.splits import SPLITS


def coco(listing: Listing) -> Iterator[Found]:
    """JSON files with images, annotations and categories."""
    files = [name for name in listing.ending(".json") if json_kind(listing, name) == "coco"]
    if not files:
        return
    files = with_namesakes(files, listing.ending(".json"))
    of_split = one_a_split(files, "coco", lambda name: "instances" in name.lower())
    places: Places = {s: (image_folder(listing, file, s), file) for s, file in of_split.items()}
    words = "COCO"
    if all(PurePosixPath(file).name == "_annotations.coco.json" for file in of_split.values()):
        words = "COCO, as Roboflow exports it"
    elif None in of_split:
        words = f"COCO, one file ({files[0]})"
    yield settled(Found("coco", words, "objects", {}), places)


def label_studio(listing: Listing) -> Iterator[Found]:
    """JSON files that are lists of tasks."""
    files = [name for name in listing.ending(".json") if json_kind(listing, name) == "label_studio"]
    if files:
        of_split = one_a_split(with_namesakes(files, listing.ending(".json")), "label_studio")
        places: Places = {
            s: (image_folder(listing, file, s, IMAGE_KEYS), file) for s, file in of_split.items()
        }
        yield settled(Found("label_studio", "Label Studio's JSON", "objects", {}), places)


def cvat(listing: Listing) -> Iterator[Found]:
    """XML files that begin with <annotations>."""
    files = [name for name in listing.ending(".xml") if xml_kind(listing, name) == "cvat"]
    if files:
        of_split = one_a_split(with_namesakes(files, listing.ending(".xml")), "cvat")
        places: Places = {}
        for split, file in of_split.items():
            names = re.findall(rb'<image\b[^>]*?\bname="([^"]+)"', listing.ends(file))
            places[split] = (
                best_folder(listing, [unescaped(n) for n in names[:NUM_SAMPLES]], file, split),
                file,
            )
        yield settled(Found("cvat", "CVAT for images", "objects", {}), places)


def csv_boxes(listing: Listing) -> Iterator[Found]:
    """CSV files whose header names an image, a class and a box."""
    files = []
    for name in listing.ending(".csv"):
        try:
            header, _ = read_table(listing.root / name, 1)
        except (OSError, ValueError):
            continue
        if not missing_columns(find_columns(header)):
            files.append(name)
    if not files:
        return
    places: Places = {}
    header: list[str] = []
    for split, file in one_a_split(with_namesakes(files, listing.ending(".csv")), "csv").items():
        names: list[str] = []
        if file in files:
            header, rows = read_table(listing.root / file, NUM_SAMPLES)
            place = find_columns(header)["file"]
            names = [row[place] for row in rows if place < len(row)]
        places[split] = best_folder(listing, names, file, split), file
    words = "a CSV file of boxes" if len(files) == 1 else "CSV files of boxes"
    if any("imageid" in name.lower() for name in header):
        words += ", as Open Images has them"
    yield settled(Found("csv", words, "objects", {}), places)


def voc(listing: Listing) -> Iterator[Found]:
    """Annotations, JPEGImages and ImageSets."""
    for base in voc_folders(listing):
        at = "" if base == "." else f"{base}/"
        images = f"{at}JPEGImages"
        lists = {
            PurePosixPath(name).stem
            for name in listing.by_ending[".txt"]
            if folder_of(name) in (f"{at}ImageSets/Main", f"{at}ImageSets/Segmentation")
        }
        found = Found("voc", "Pascal VOC", "objects", {} if base == "." else {"root": base})
        if not {"train", "val"} <= lists:
            whole = "trainval" if "trainval" in lists else "train" if "train" in lists else None
            held_out = next((name for name in ("val", "test") if name in lists), None)
            if whole and held_out:
                found.options |= {"train": whole, "val": held_out, "test": None}
                found.notes.append(f"the list {held_out} is val, for want of another")
            else:
                split_it(found)
        if f"{at}SegmentationClass" in {folder_of(name) for name in listing.by_ending[".png"]}:
            found.words += " with masks"
        if listing.has_folder(images):
            yield found


def xml_files(listing: Listing) -> Iterator[Found]:
    """VOC's XML files beside pictures, or in another folder."""
    in_voc = [f"{base}/Annotations/".removeprefix("./") for base in voc_folders(listing)]
    files = [name for name in listing.ending(".xml") if not name.startswith(tuple(in_voc))]
    if not files or xml_kind(listing, files[0]) != "voc":
        return
    pairs = pair_by_name(files, listing.images)
    by_roboflow = any("roboflow" in name.lower() for name in listing.names)
    words = "VOC's XML files, as Roboflow exports them" if by_roboflow else "VOC's XML files, {where}"
    yield from of_pairs(Found("xml", words, "objects", {}), pairs)


def labelme(listing: Listing) -> Iterator[Found]:
    """A JSON file of shapes for each picture."""
    files = [name for name in listing.ending(".json") if json_kind(listing, name) == "labelme"]
    if files:
        yield from of_pairs(
            Found("labelme", "labelme's JSON files, {where}", "objects", {}),
            pair_by_name(files, listing.images),
        )


def yolo(listing: Listing) -> Iterator[Found]:
    """A data.yaml, or text files of numbers with the names of pictures."""
    described = [
        name for name in listing.ending(".yaml", ".yml") if "/" not in name and is_data_yaml(listing, name)
    ]
    labels = label_texts(listing)
    if described:
        yield from described_yolo(listing, described, labels)
    elif labels:
        yield from plain_yolo(listing, labels)


def described_yolo(listing: Listing, files: Sequence[str], labels: Sequence[str]) -> Iterator[Found]:
    """With a data.yaml."""
    if len(files) > 1:
        choices = " or ".join(f"data=yolo data.file={name}" for name in files)
        raise UnclearError(f"{' and '.join(files)} describe a YOLO data set each; choose with {choices}")
    content = read_data_yaml(listing.root / files[0])
    found = Found(
        "yolo", f"YOLO with {files[0]}", "objects", {} if files[0] == "data.yaml" else {"file": files[0]}
    )
    if "roboflow" in content:
        found.words = "YOLO, as Roboflow exports it"
    base = find_base(listing.root, content)
    there = []
    for split in SPLITS:
        entry = content.get(split)
        first = entry[0] if isinstance(entry, list) and entry else entry
        if first and (is_folder(path := find_place(base, first)) or is_file(path)):
            there.append(split)
    pairs = pair_by_name(labels, listing.images)
    for split, (images, of_labels) in pairs.folders.items():
        if split in SPLITS and of_labels not in (images, str(labels_folder(Path(images)))):
            found.options[f"{split}_labels"] = of_labels
            found.notes.append(f"the labels of {split} are in {of_labels}")
    if "val" not in there and "train" in there:
        split_it(found)
    yield found


def plain_yolo(listing: Listing, labels: Sequence[str]) -> Iterator[Found]:
    """Without one: names of classes from classes.txt, or their numbers."""
    pairs = pair_by_name(labels, listing.images)
    names_file = next(
        (
            n
            for n in listing.names
            if PurePosixPath(n).name
            in ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
        ),
        None,
    )
    numbers = [number for name in labels if (number := highest_class(listing, name)) is not None]
    names = read_own_lines(listing.root / names_file, Reading(root=listing.root)) if names_file else []
    found = Found("yolo", "YOLO's text files, {where}", "objects", {})
    if not names:
        names = [str(number) for number in range(max(numbers, default=0) + 1)]
        found.notes.append(
            "no file names the classes: they are called by their numbers (data.names=[…] names them)"
        )
    else:
        found.words += f", classes from {names_file}"
    found.options["names"] = names
    for reading in of_pairs(found, pairs):
        for split in SPLITS:
            images, of_labels = (
                reading.options.pop(f"{split}_{kind}", None) for kind in ("images", "annotations")
            )
            if images is not None:
                reading.options[split] = images
                if of_labels != str(labels_folder(Path(images))):
                    reading.options[f"{split}_labels"] = of_labels
        yield reading
