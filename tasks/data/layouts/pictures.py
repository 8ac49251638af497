"""Layouts without annotation files: masks beside images, and a folder of images for each class."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np

from tasks.data.annotations.class_maps import BACKGROUND
from tasks.data.formats.file_names import read_own_lines
from tasks.data.formats.mask_png import read_mask
from tasks.data.formats.voc import VOC_CLASSES
from tasks.data.layouts.found import Found, settled_pairs, split_it
from tasks.data.layouts.listing import SPLIT_WORDS, Listing, folder_of, pair_by_name, split_of
from tasks.data.layouts.looks import NUM_SAMPLES, json_kind, label_texts, voc_folders
from tasks.data.loading.images import DEFAULT_READING, Reading, open_image
from tasks.data.loading.storage import read_file
from tasks.data.splits import SplitName

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


def image_folders(listing: Listing) -> Iterator[Found]:
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
    found = Found("image_folder", "a folder of images for each class", "classes", {})
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


def masks(listing: Listing) -> Iterator[Found]:
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


def mask_readings(listing: Listing, ending: str, files: Sequence[str]) -> Iterator[Found]:
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
    found = Found("mask_png", "masks beside images", "class maps", {"mask_suffix": best} if best else {})
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


def name_classes(listing: Listing, found: Found, ending: str, files: Sequence[str]) -> None:
    """The classes of masks, by what driving sets have, by classes.txt, or by the values in them."""
    if ending == "_gtFine_labelIds":
        found.words = "Cityscapes (ids)"
        found.options |= {"classes": dict(CITYSCAPES), "unlisted": "ignore"}
    elif ending in ("_gtFine_labelTrainIds", "_train_id") or any("sem_seg/masks/" in f"{n}/" for n in files):
        found.words = "Cityscapes (trainIds)" if ending.startswith("_gtFine") else "BDD100K's masks"
        found.options["classes"] = list(CITYSCAPES)
    elif "classes.txt" in listing.names:
        names = read_own_lines(listing.root / "classes.txt", Reading(root=listing.root))
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


def has_lists(listing: Listing, base: str) -> bool:
    """Whether VOC's folder has lists of images with masks."""
    return listing.has_folder(str(PurePosixPath(base, "ImageSets/Segmentation")))


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
