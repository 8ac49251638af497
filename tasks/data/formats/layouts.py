"""Layouts of data sets as tools leave them: which of them the files of a folder are, and the settings that read it so.

Each function looks at a `Listing` and gives the readings that fit it, none where it is of another layout.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np

from tasks.data.annotations.class_maps import BACKGROUND
from tasks.data.formats.csv_boxes import find_columns, missing_columns, read_table
from tasks.data.formats.file_names import readings
from tasks.data.formats.listing import (
    SPLIT_WORDS,
    Listing,
    Pairs,
    common_folder,
    folder_of,
    pair_by_name,
    split_of,
)
from tasks.data.formats.mask_png import read_mask
from tasks.data.formats.values import to_integer, to_number
from tasks.data.formats.voc import VOC_CLASSES
from tasks.data.formats.yolo import find_place, read_data_yaml
from tasks.data.loading.images import DEFAULT_READING, open_image
from tasks.data.loading.storage import is_file, is_folder, read_file, read_lines, read_text
from tasks.data.splits import SPLITS, SplitName

Kind = Literal["objects", "classes", "class maps"]
Places = dict[SplitName | None, tuple[str, str]]
"""Images and annotations of each split; None for those of no split."""
SHARES = "0.8/0.2"
"""Of train and val, where a data set has no splits of its own."""
NUM_SAMPLES = 40
"""Names, or files, that are looked at to tell what all of a kind are."""
NO_CLASS_FOLDERS = {"images", "image", "imgs", "img", "labels", "label", "masks", "mask", "annotations", "annotation",
                    "jpegimages", "segmentationclass", "segmentationobject", "imagesets"}  # fmt: skip
"""Names of folders that are no classes."""
CITYSCAPES = {
    "road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19,
    "traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26, "truck": 27,
    "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
"""The 19 classes of its benchmark by their ids; by their trainIds they are numbered from 0 in this order."""
CAMVID = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
)
"""Of the 11 classes that segmenters are compared on; 11 is void."""
VOID = {"void", "unlabelled", "unlabeled", "ignore", "ignored"}
"""Names in classes.txt that stand for no class."""
MASK_WORDS = re.compile(r"mask|label|annot|gt|seg|lbl", re.IGNORECASE)
MASK_ENDINGS = (
    "",
    "_mask",
    "_label",
    "_labels",
    "_seg",
    "_gt",
    "_L",
    "_train_id",
    "-mask",
    "_labelIds",
    "_labelTrainIds",
)
"""Of the names of masks, where those of their images have none."""


class UnclearError(ValueError):
    """A layout that leaves open what is meant, in words."""


@dataclass
class Reading:
    """One way in which a folder can be read."""

    format: str
    """As in `tasks.data.FORMATS`."""
    words: str
    """What it is, for a person."""
    kind: Kind
    options: dict[str, Any]
    """Settings of the format, `root` apart."""
    notes: list[str] = field(default_factory=list)
    """What was chosen, in words."""


def coco(listing: Listing) -> Iterator[Reading]:
    """JSON files with images, annotations and categories."""
    files = [name for name in listing.ending(".json") if json_kind(listing, name) == "coco"]
    if not files:
        return
    of_split = one_a_split(files, "coco", lambda name: "instances" in name.lower())
    places: Places = {s: (image_folder(listing, file, s), file) for s, file in of_split.items()}
    words = "COCO"
    if all(PurePosixPath(file).name == "_annotations.coco.json" for file in of_split.values()):
        words = "COCO, as Roboflow exports it"
    elif None in of_split:
        words = f"COCO, one file ({files[0]})"
    yield settled(Reading("coco", words, "objects", {}), places)


def label_studio(listing: Listing) -> Iterator[Reading]:
    """JSON files that are lists of tasks."""
    files = [name for name in listing.ending(".json") if json_kind(listing, name) == "label_studio"]
    if files:
        of_split = one_a_split(files, "label_studio")
        places: Places = {s: (split_images(listing, s, file), file) for s, file in of_split.items()}
        yield settled(Reading("label_studio", "Label Studio's JSON", "objects", {}), places)


def cvat(listing: Listing) -> Iterator[Reading]:
    """XML files that begin with <annotations>."""
    files = [name for name in listing.ending(".xml") if xml_kind(listing, name) == "cvat"]
    if files:
        of_split = one_a_split(files, "cvat")
        places: Places = {}
        for split, file in of_split.items():
            names = re.findall(rb'<image\b[^>]*?\bname="([^"]+)"', listing.ends(file))
            places[split] = (
                best_folder(listing, [unescaped(n) for n in names[:NUM_SAMPLES]], file, split),
                file,
            )
        yield settled(Reading("cvat", "CVAT for images", "objects", {}), places)


def csv_boxes(listing: Listing) -> Iterator[Reading]:
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
    for split, file in one_a_split(files, "csv").items():
        header, rows = read_table(listing.root / file, NUM_SAMPLES)
        place = find_columns(header)["file"]
        names = [row[place] for row in rows if place < len(row)]
        places[split] = best_folder(listing, names, file, split), file
    words = "a CSV file of boxes" if len(files) == 1 else "CSV files of boxes"
    if any("imageid" in name.lower() for name in header):
        words += ", as Open Images has them"
    yield settled(Reading("csv", words, "objects", {}), places)


def voc(listing: Listing) -> Iterator[Reading]:
    """Annotations, JPEGImages and ImageSets."""
    for base in voc_folders(listing):
        at = "" if base == "." else f"{base}/"
        images = f"{at}JPEGImages"
        lists = {
            PurePosixPath(name).stem
            for name in listing.by_ending[".txt"]
            if folder_of(name) in (f"{at}ImageSets/Main", f"{at}ImageSets/Segmentation")
        }
        found = Reading("voc", "Pascal VOC", "objects", {} if base == "." else {"root": base})
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


def xml_files(listing: Listing) -> Iterator[Reading]:
    """VOC's XML files beside pictures, or in another folder."""
    in_voc = [f"{base}/Annotations/".removeprefix("./") for base in voc_folders(listing)]
    files = [name for name in listing.ending(".xml") if not name.startswith(tuple(in_voc))]
    if not files or xml_kind(listing, files[0]) != "voc":
        return
    pairs = pair_by_name(files, listing.images)
    by_roboflow = any("roboflow" in name.lower() for name in listing.names)
    words = "VOC's XML files, as Roboflow exports them" if by_roboflow else "VOC's XML files, {where}"
    yield from of_pairs(Reading("xml", words, "objects", {}), pairs)


def labelme(listing: Listing) -> Iterator[Reading]:
    """A JSON file of shapes for each picture."""
    files = [name for name in listing.ending(".json") if json_kind(listing, name) == "labelme"]
    if files:
        yield from of_pairs(
            Reading("labelme", "labelme's JSON files, {where}", "objects", {}),
            pair_by_name(files, listing.images),
        )


def yolo(listing: Listing) -> Iterator[Reading]:
    """A data.yaml, or text files of numbers with the names of pictures."""
    described = [
        name for name in listing.ending(".yaml", ".yml") if "/" not in name and is_data_yaml(listing, name)
    ]
    labels = label_texts(listing)
    if described:
        yield from described_yolo(listing, described, labels)
    elif labels:
        yield from plain_yolo(listing, labels)


def described_yolo(listing: Listing, files: Sequence[str], labels: Sequence[str]) -> Iterator[Reading]:
    """With a data.yaml."""
    if len(files) > 1:
        choices = " or ".join(f"data=yolo data.file={name}" for name in files)
        raise UnclearError(f"{' and '.join(files)} describe a YOLO data set each; choose with {choices}")
    content = read_data_yaml(listing.root / files[0])
    found = Reading(
        "yolo", f"YOLO with {files[0]}", "objects", {} if files[0] == "data.yaml" else {"file": files[0]}
    )
    if "roboflow" in content:
        found.words = "YOLO, as Roboflow exports it"
    named = content.get("path")
    base = (
        listing.root / named if isinstance(named, str) and is_folder(listing.root / named) else listing.root
    )
    there = []
    for split in SPLITS:
        entry = content.get(split)
        first = entry[0] if isinstance(entry, list) and entry else entry
        if first and (is_folder(path := find_place(base, first)) or is_file(path)):
            there.append(split)
    pairs = pair_by_name(labels, listing.images)
    for split, (images, of_labels) in pairs.folders.items():
        if split in SPLITS and of_labels not in (images, swapped(images)):
            found.options[f"{split}_labels"] = of_labels
            found.notes.append(f"the labels of {split} are in {of_labels}")
    if "val" not in there and "train" in there:
        split_it(found)
    yield found


def plain_yolo(listing: Listing, labels: Sequence[str]) -> Iterator[Reading]:
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
    names = read_lines(listing.root / names_file) if names_file else []
    found = Reading("yolo", "YOLO's text files, {where}", "objects", {})
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
                if of_labels != swapped(images):
                    reading.options[f"{split}_labels"] = of_labels
        yield reading


def image_folders(listing: Listing) -> Iterator[Reading]:
    """A folder for each class, at the top or in those of splits."""
    if listing.only is not None or not listing.images:
        return
    if any(json_kind(listing, n) for n in listing.by_ending[".json"][:NUM_SAMPLES]) or label_texts(listing):
        return
    tops: dict[str, set[str]] = {}
    for name in listing.images:
        parts = name.split("/")
        if len(parts) < 2:
            return  # pictures of no class
        tops.setdefault(parts[0], set()).add(parts[1] if len(parts) > 2 else "")
    of_split = {SPLIT_WORDS[top.lower()]: top for top in tops if top.lower() in SPLIT_WORDS}
    is_split = len(of_split) == len(tops)
    classes = set().union(*tops.values()) if is_split else set(tops)
    if "" in classes or len(classes) < 2 or {name.lower() for name in classes} & NO_CLASS_FOLDERS:
        return
    found = Reading("image_folder", "a folder of images for each class", "classes", {})
    if not is_split or set(of_split) == {"train"}:
        split_it(found)
        if is_split:
            found.options["root"] = of_split["train"]
    else:
        held_out = "val" if "val" in of_split else "test"
        if held_out == "test":
            found.notes.append("the folder test is val, for want of another")
        chosen = {"train": of_split.get("train"), "val": of_split.get(held_out), "test": of_split.get("test")}
        if held_out == "test":
            chosen["test"] = None
        found.options |= {split: top for split, top in chosen.items() if top != split}
    yield found


def masks(listing: Listing) -> Iterator[Reading]:
    """PNG files of the names of pictures, in folders of their own, whose pixels are numbers of classes."""
    if listing.only is not None:
        return
    in_voc = [f"{base}/".removeprefix("./") for base in voc_folders(listing) if has_lists(listing, base)]
    pngs = [n for n in listing.by_ending[".png"] if not any(n.startswith(v) or not v for v in in_voc)]
    of_kind: dict[str, list[str]] = {}
    for ending in ("_gtFine_labelIds", "_gtFine_labelTrainIds", "_train_id"):
        chosen = [n for n in pngs if n.endswith(f"{ending}.png")]
        if chosen:
            of_kind[ending] = chosen
            break
    if not of_kind:
        chosen = [n for n in pngs if MASK_WORDS.search(folder_of(n)) and "colormap" not in n]
        of_kind = {"": chosen} if chosen else {}
    for ending, files in of_kind.items():
        yield from mask_readings(listing, ending, files)


def mask_readings(listing: Listing, ending: str, files: Sequence[str]) -> Iterator[Reading]:
    """Those of masks whose names end so."""
    is_mask = set(files)
    pictures = [name for name in listing.images if name not in is_mask]
    image_ending = "_leftImg8bit" if ending.startswith("_gtFine") else ""
    plain = {cut(name, image_ending): name for name in pictures}
    endings = (ending,) if ending else MASK_ENDINGS
    best = max(endings, key=lambda e: len(stems_of(plain) & {PurePosixPath(cut(n, e)).name for n in files}))
    pairs = pair_by_name([f"{cut(n, best)}.png" for n in files], [f"{name}.png" for name in plain])
    if not pairs.folders or not is_numbers(listing, files[0]):
        return
    found = Reading("mask_png", "masks beside images", "class maps", {"mask_suffix": best} if best else {})
    if image_ending:
        found.options["image_suffix"] = image_ending
    name_classes(listing, found, best, files)
    pairs.folders = {named_split(s, places): places for s, places in pairs.folders.items()}
    for split, (images, of_masks) in settled_pairs(found, pairs).items():
        found.options |= {f"{split}_images": images, f"{split}_masks": of_masks}
    for split in ("val", "test"):
        if f"{split}_images" not in found.options:
            found.options |= {f"{split}_images": None, f"{split}_masks": None}
    yield found


def name_classes(listing: Listing, found: Reading, ending: str, files: Sequence[str]) -> None:
    """The classes of masks, by what driving sets have, by classes.txt, or by the values in them."""
    if ending == "_gtFine_labelIds":
        found.words = "Cityscapes (ids)"
        found.options |= {"classes": dict(CITYSCAPES), "unlisted": "ignore"}
    elif ending in ("_gtFine_labelTrainIds", "_train_id") or any("sem_seg/masks/" in f"{n}/" for n in files):
        found.words = "Cityscapes (trainIds)" if ending.startswith("_gtFine") else "BDD100K's masks"
        found.options["classes"] = list(CITYSCAPES)
    elif "classes.txt" in listing.names:
        names = read_lines(listing.root / "classes.txt")
        found.words += ", classes from classes.txt"
        if void := [value for value, name in enumerate(names) if name.lower() in VOID]:
            found.options["ignore"] = void
            found.options["classes"] = {name: v for v, name in enumerate(names) if v not in void}
    else:
        values = values_in(listing, files)
        if any(folder_of(n).endswith("annot") for n in files) and max(values, default=0) <= len(CAMVID):
            found.words = "CamVid's masks"
            found.options |= {"classes": list(CAMVID), "ignore": [len(CAMVID)]}
        elif any(folder_of(n).endswith("SegmentationClass") for n in files) and set(values) <= {
            *range(21),
            255,
        }:
            found.words = "Pascal VOC's masks without lists"
            found.options["classes"] = [BACKGROUND, *VOC_CLASSES]
        elif set(values) == {0, 255}:
            found.options["classes"] = {BACKGROUND: 0, "foreground": 255}
            found.notes.append("masks of two values, 0 and 255: background and foreground")
        else:
            known = [value for value in values if value != 255]
            found.options["classes"] = {f"class {value}": value for value in known}
            found.notes.append(
                "no classes.txt names the values of the masks: they are called by their numbers (data.classes=[…])"
            )


LAYOUTS: Mapping[str, tuple[Callable[[Listing], Iterator[Reading]], str]] = {
    "coco": (
        coco,
        "COCO: a JSON file with 'images', 'annotations' and 'categories', and a folder of its images",
    ),
    "voc": (voc, "Pascal VOC: Annotations/*.xml, JPEGImages/ and ImageSets/Main/train.txt"),
    "xml": (
        xml_files,
        "LabelImg: an XML file (<annotation>) for each picture, beside it or in another folder",
    ),
    "yolo": (yolo, "YOLO: a data.yaml, or a text file 'class cx cy w h' for each picture"),
    "labelme": (labelme, "labelme: a JSON file with 'shapes' for each picture"),
    "cvat": (cvat, "CVAT: annotations.xml in its format for images 1.1, and the images"),
    "label_studio": (label_studio, "Label Studio: its JSON export, a list of tasks, and the images"),
    "csv": (csv_boxes, "CSV: a header such as filename,class,xmin,ymin,xmax,ymax, and the images"),
    "mask_png": (
        masks,
        "masks: PNG files of class numbers, named as their images, in a folder called masks or the like",
    ),
    "image_folder": (
        image_folders,
        "classification: a folder of images for each class, or train/ and val/ of such",
    ),
}
"""By format: what finds it, and what it needs."""


# What the layouts share.


def split_it(found: Reading) -> None:
    """Settings by which a data set without splits is split."""
    found.options |= {"split": SHARES, "near_copies": True}


def settled(found: Reading, places: Places) -> Reading:
    """The reading with the places of images and annotations of each split; split where there is one alone."""
    pairs = Pairs(places, dict.fromkeys(places, 1), [])
    for split, (images, annotations) in settled_pairs(found, pairs).items():
        found.options |= {f"{split}_images": images, f"{split}_annotations": annotations}
    if found.format == "coco":  # whose settings have places by default
        for split in ("train", "val"):
            if f"{split}_images" not in found.options:
                found.options |= {f"{split}_images": None, f"{split}_annotations": None}
    return found


def settled_pairs(found: Reading, pairs: Pairs) -> dict[SplitName, tuple[str, str]]:
    """The places by split; that of no split, or train alone, is split by settings of `found`."""
    places = dict(pairs.folders)
    whole = places.pop(None, None)
    known: dict[SplitName, tuple[str, str]] = {name: places[name] for name in SPLITS if name in places}
    if whole is not None and "train" not in known:
        known["train"] = whole
    elif whole is not None:
        found.notes.append(f"what is in {whole[0]}, of no split, is left out")
    if "train" in known and "val" not in known:
        if "test" in known:
            known["val"] = known.pop("test")
            found.notes.append("test is val, for want of another")
        else:
            split_it(found)
    return known


def of_pairs(found: Reading, pairs: Pairs) -> Iterator[Reading]:
    """A reading of folders of labels, where any of them has a picture's name."""
    if not pairs.folders:
        return
    places = settled_pairs(found, pairs)
    beside = all(images == labels for images, labels in places.values())
    first = next(iter(places.values()))
    where = "beside the pictures" if beside else f"in {first[1]} for the pictures in {first[0]}"
    found.words = found.words.format(where=where)
    if pairs.unpaired:
        found.notes.append(f"{len(pairs.unpaired)} files of labels have no picture ('{pairs.unpaired[0]}')")
    for split, (images, labels) in places.items():
        found.options |= {f"{split}_images": images, f"{split}_annotations": labels}
    yield found


def one_a_split(
    files: Sequence[str], format: str, is_usual: Callable[[str], bool] = lambda _: False
) -> dict[SplitName | None, str]:
    """The annotation file of each split, None for one of no split. Of several `is_usual` chooses.

    Raises UnclearError where there is more than one."""
    of_split: dict[SplitName | None, list[str]] = {}
    for name in files:
        of_split.setdefault(split_of(name), []).append(name)
    if None in of_split and len(of_split) > 1:
        del of_split[None]
    found: dict[SplitName | None, str] = {}
    for split, names in of_split.items():
        usual = [name for name in names if is_usual(name)] or names
        if len(usual) > 1:
            choices = " or ".join(f"data.root=…/{name}" for name in usual[:4])
            raise UnclearError(
                f"{len(usual)} files ({', '.join(usual[:4])}) could be the annotations{f' of {split}' * bool(split)}; "
                f"choose one with {choices}, or name those of each split: data={format} data.train_annotations=… "
                "data.train_images=… and the same for val"
            )
        found[split] = usual[0]
    return found


def kind_of_json(content: bytes) -> str | None:
    """See `json_kind`."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in content[:4]:
        content = content.decode(json.detect_encoding(content), "replace").encode("utf-8", "replace")
    start = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if (
        start == b"{"
        and b'"categories"' in content
        and (b'"images"' in content or b'"annotations"' in content)
    ):
        return "coco"
    if start == b"{" and b'"shapes"' in content and (b'"imagePath"' in content or b'"points"' in content):
        return "labelme"
    marks = (b'"result"', b'"rectanglelabels"', b'"polygonlabels"', b'"brushlabels"')
    if start == b"[" and any(mark in content for mark in marks):
        return "label_studio"
    return None


def json_kind(listing: Listing, name: str) -> str | None:
    """The format of a JSON file by the words in it: "coco", "labelme" or "label_studio"; None for another."""
    if name not in listing.kinds:
        listing.kinds[name] = kind_of_json(listing.ends(name))
    return listing.kinds[name]


def xml_kind(listing: Listing, name: str) -> str | None:
    """The format of an XML file by its first tag, "voc" or "cvat"; None for another."""
    content = listing.ends(name)[:65536]
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        content = content.decode("utf-16", "replace").encode()
    found = re.search(rb"<(?:\w+:)?(annotations?)[\s>]", content)
    return None if found is None else "voc" if found.group(1) == b"annotation" else "cvat"


def image_folder(listing: Listing, file: str, split: SplitName | None) -> str:
    """The folder that the names in a COCO file are relative to."""
    found = re.findall(rb'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"', listing.ends(file))
    names = []
    for text in found[:NUM_SAMPLES]:
        try:
            names.append(str(json.loads(b'"' + text + b'"')))
        except ValueError:
            continue
    return best_folder(listing, names, file, split)


def best_folder(listing: Listing, names: Sequence[str], file: str, split: SplitName | None) -> str:
    """The folder in which most of these images are, read as they may be meant; of equal ones that of the same split,
    then the one nearest to the annotation `file`. Where none has any, `split_images`."""
    wanted: dict[str, set[str]] = {}
    for name in names:
        for text, _ in readings(name):
            path = PurePosixPath(text.lstrip("/"))
            if path.parts and ".." not in path.parts:
                wanted.setdefault(path.as_posix(), set()).add(name)
    stems = {
        PurePosixPath(path).stem: by for path, by in wanted.items() if "." not in PurePosixPath(path).name
    }
    found: dict[str, set[str]] = {}
    deepest: Counter[str] = Counter()
    for image in listing.images:
        parts = image.split("/")
        for depth in range(len(parts)):
            inner = "/".join(parts[depth:])
            by = wanted.get(inner) or (
                stems.get(PurePosixPath(inner).stem) if depth == len(parts) - 1 else None
            )
            if by is not None:
                folder = "/".join(parts[:depth]) or "."
                found.setdefault(folder, set()).update(by)
                deepest[folder] = max(deepest[folder], len(parts) - depth)
    if not found:
        return split_images(listing, split, file)
    own = folder_of(file)
    return max(
        found,
        key=lambda folder: (
            len(found[folder]),
            split_of(folder) == split,
            folder == own or folder.startswith(f"{own}/"),
            deepest[folder],  # a name with its folders tells more than one without
            -len(PurePosixPath(folder).parts),
        ),
    )


def split_images(listing: Listing, split: SplitName | None, file: str) -> str:
    """The folder of the pictures of a split, or of those nearest to an annotation file."""
    folders = Counter(folder_of(image) for image in listing.images)
    own = folder_of(file)
    same = [folder for folder in folders if split is not None and split_of(folder) == split]
    near = [
        folder for folder in folders if folder == own or folder.startswith("" if own == "." else f"{own}/")
    ]
    return common_folder(same or near or folders or ["."])


def voc_folders(listing: Listing) -> list[str]:
    """Folders with JPEGImages and Annotations or masks in them."""
    found = {
        folder_of(folder_of(n)) for n in listing.images if PurePosixPath(folder_of(n)).name == "JPEGImages"
    }
    return sorted(
        base for base in found if any(n.endswith(".xml") for n in listing.by_ending[".xml"]
                                      if folder_of(n) == str(PurePosixPath(base, "Annotations")))
    )  # fmt: skip


def has_lists(listing: Listing, base: str) -> bool:
    """Whether VOC's folder has lists of images with masks."""
    return listing.has_folder(str(PurePosixPath(base, "ImageSets/Segmentation")))


def is_data_yaml(listing: Listing, name: str) -> bool:
    """Whether a YAML file names classes and images."""
    content = listing.ends(name)
    return re.search(rb"^\s*[\"']?names[\"']?\s*:", content, re.M) is not None and (
        re.search(rb"^\s*[\"']?(train|val)[\"']?\s*:", content, re.M) is not None
    )


def label_texts(listing: Listing) -> list[str]:
    """Text files with the name of a picture, if those that are looked at hold YOLO's numbers."""
    stems = {PurePosixPath(name).stem.casefold() for name in listing.images}
    texts = [n for n in listing.by_ending.get(".txt", ()) if PurePosixPath(n).stem.casefold() in stems]
    looked_at = [read_start(listing, name) for name in texts[:NUM_SAMPLES]]
    full = [line for line in looked_at if line]
    is_numbers = [len(line) >= 5 and all(np.isfinite(to_number(word)) for word in line) for line in full]
    return texts if full and sum(is_numbers) * 2 > len(full) else []


def read_start(listing: Listing, name: str) -> list[str]:
    """The words of the first line of a text."""
    try:
        return next(
            (line.split() for line in read_text(listing.root / name).splitlines() if line.strip()), []
        )
    except (OSError, ValueError):
        return []


def highest_class(listing: Listing, name: str) -> int | None:
    """The highest number of a class in a file of labels, below a thousand; None without one."""
    try:
        numbers = [to_integer(line.split()[0]) for line in read_lines(listing.root / name)]
    except (OSError, ValueError):
        return None
    return max((number for number in numbers if number is not None and 0 <= number < 1000), default=None)


def swapped(folder: str) -> str:
    """Where YOLO looks for the labels of a folder of images."""
    parts = list(PurePosixPath(folder).parts)
    for place in reversed(range(len(parts))):
        if parts[place] == "images":
            parts[place] = "labels"
            break
    return str(PurePosixPath(*parts))


def cut(name: str, ending: str) -> str:
    """A path without the ending of the file, and without this one of its name."""
    stem = str(PurePosixPath(name).with_suffix(""))
    return stem.removesuffix(ending)


def stems_of(paths: Mapping[str, str]) -> set[str]:
    """Their last parts."""
    return {PurePosixPath(path).name for path in paths}


def named_split(split: SplitName | None, places: tuple[str, str]) -> SplitName | None:
    """The split of images and masks, which the folder of the images may say alone."""
    return split if split is not None else split_of(places[0])


def is_numbers(listing: Listing, name: str) -> bool:
    """Whether a PNG holds one number a pixel."""
    try:
        content = read_file(listing.root / name, DEFAULT_READING.max_bytes)
        with open_image(content, name, DEFAULT_READING) as image:
            return image.mode in ("P", "L", "1") or image.mode.startswith("I")
    except (OSError, ValueError):
        return False


def values_in(listing: Listing, files: Sequence[str]) -> list[int]:
    """The values in masks, of which at most `NUM_SAMPLES` are read, evenly spread."""
    found: set[int] = set()
    for name in files[:: -(-len(files) // NUM_SAMPLES)]:
        try:
            found |= set(np.unique(read_mask(listing.root / name)).tolist())
        except ValueError:
            continue
    return sorted(found)


def unescaped(text: bytes) -> str:
    """An attribute of XML as text."""
    from xml.sax.saxutils import unescape

    return unescape(text.decode("utf-8", "replace"), {"&quot;": '"', "&apos;": "'"})
