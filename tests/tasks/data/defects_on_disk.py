"""A data set in COCO's format with one defect of each kind, and where each of them is."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 64, 96
OPTIONS = {
    "train_images": "train", "train_annotations": "train.json", "val_images": "val", "val_annotations": "val.json",
}  # fmt: skip
CAT, DOG, RARE, UNUSED = 1, 2, 3, 9

Place = tuple[str, str, int | None, int | None, int | None]  # issue, split, image, annotation, category

IN_ANNOTATIONS: dict[int, tuple[str, dict[str, Any]]] = {
    101: ("unknown image", {"image_id": 999}),
    102: ("undeclared category", {"category_id": 77}),
    104: ("not finite", {"bbox": [10, 10, float("nan"), 20]}),
    105: ("degenerate box", {"bbox": [10, 10, 0, 20]}),
    106: ("corners for extents", {"bbox": [50, 20, 90, 60], "area": 1600}),
    107: ("wrong corner order", {"bbox": [60, 50, -40, -30]}),
    108: ("normalised box", {"bbox": [0.25, 0.25, 0.5, 0.5], "area": 0.25}),
    109: ("negative coordinates", {"bbox": [-5, 10, 30, 20]}),
    110: ("box outside image", {"bbox": [70, 10, 40, 20]}),
    111: ("run lengths of other size", {"segmentation": {"size": [96, 64], "counts": [0, 96 * 64]}}),
    112: ("polygon of few points", {"segmentation": [[20, 20, 40, 40]]}),
    113: ("polygon of odd count", {"segmentation": [[20, 20, 50, 20, 50, 50], [20, 20, 50, 50, 40, 40, 30]]}),
    114: ("polygon outside box", {"segmentation": [[10, 20, 50, 20, 50, 50, 10, 50]]}),
    115: ("bad segmentation", {"segmentation": [[20, 20, 50, 20, 50, float("inf")]]}),
    117: (
        "vanishes at training size",
        {"bbox": [20, 20, 30, 0.5], "segmentation": [[20, 20, 50, 20, 50, 20.5, 20, 20.5]]},
    ),
}
"""Annotation id to issue and what is wrong; each on an image of its own, whose id is 100 less."""
FIXED = {103, 106, 107, 108, 109, 110, 111, 112, 113, 114, 115}


def texture(seed: int, height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    """uint8 (height, width, 3): blurred noise, so that no two pictures are alike."""
    noise = np.random.default_rng(seed).integers(0, 256, (8, 12, 3), np.uint8)
    return np.array(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def annotation(annotation_id: int, on_image: int, **values: Any) -> dict[str, Any]:
    box = [20, 20, 30, 30]
    ring = [[20, 20, 50, 20, 50, 50, 20, 50]] if "bbox" not in values else []
    common = {"category_id": CAT, "bbox": box, "area": 900, "iscrowd": 0, "segmentation": ring}
    return {"id": annotation_id, "image_id": on_image, **common, **values}


def write_defects(root: Path) -> set[Place]:
    """Writes the data set and returns its issues: 28 kinds, each once."""
    images: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    annotations: dict[str, list[dict[str, Any]]] = {"train": [], "val": []}
    places: set[Place] = set()

    def add_image(split: str, image_id: int, name: str = "") -> Path:
        name = name or f"{image_id}.jpg"
        images[split].append({"id": image_id, "file_name": name, "height": HEIGHT, "width": WIDTH})
        path = root / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(image_id)).save(path, quality=95)
        return path

    for image_id in range(300, 306):  # nothing is wrong with these
        add_image("train", image_id)
        category = RARE if image_id == 305 else DOG if image_id % 2 else CAT
        annotations["train"].append(annotation(image_id, image_id, category_id=category))
    for image_id in (400, 401, 402):
        add_image("val", image_id)
        annotations["val"].append(annotation(image_id, image_id, category_id=DOG if image_id % 2 else CAT))

    for annotation_id, (issue, values) in IN_ANNOTATIONS.items():
        add_image("train", annotation_id - 100)
        annotations["train"].append(annotation(annotation_id, annotation_id - 100, **values))
        image_id = values.get("image_id", annotation_id - 100)
        places.add((issue, "train", image_id, annotation_id, values.get("category_id", CAT)))
    add_image("train", 3)
    annotations["train"] += [annotation(103, 3), annotation(103, 3, category_id=DOG)]
    places.add(("duplicate annotation id", "train", 3, 103, DOG))
    add_image("train", 16)
    annotations["train"] += [annotation(116, 16), annotation(118, 16)]
    places.add(("duplicate annotation", "train", 16, 118, CAT))

    def bad_image(issue: str, image_id: int) -> Path:
        places.add((issue, "train", image_id, None, None))
        return add_image("train", image_id)

    bad_image("file missing", 200).unlink()
    bad_image("file unreadable", 201).write_text("no picture")
    path = bad_image("file truncated", 202)
    path.write_bytes(path.read_bytes()[:-400])
    Image.fromarray(texture(203)[:60]).save(bad_image("other image size", 203))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(texture(204)).save(bad_image("EXIF rotation ignored", 204), exif=exif)
    exif[0x0112] = 3
    Image.fromarray(texture(205)).save(bad_image("EXIF rotation", 205), exif=exif)
    shutil.copy(root / "val/400.jpg", bad_image("same picture in two splits", 206))
    Image.fromarray(texture(401)).save(bad_image("near copy in two splits", 207), quality=60)
    add_image("train", 208)
    places.add(("duplicate image id", "train", 208, None, None))
    images["train"].append(dict(images["train"][-1]))

    places.add(("unused category", "train, val", None, None, UNUSED))
    places.add(("category in one split only", "train", None, None, RARE))
    names = {CAT: "cat", DOG: "dog", RARE: "rare", UNUSED: "unused"}
    for split in ("train", "val"):
        content = {
            "images": images[split],
            "annotations": annotations[split],
            "categories": [{"id": category_id, "name": name} for category_id, name in names.items()],
        }
        (root / f"{split}.json").write_text(json.dumps(content))
    return places
