"""A small data set in COCO's format, with everything that real ones bring along."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask

ROTATED = "rotated.jpg"  # stored lying on its side, as telephones do


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, so that JPEG keeps it nearly as it is, and different in each corner and channel."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [rows / height * 200 + 20, columns / width * 200 + 30, np.full_like(rows, 40 + 10 * seed)]
    return np.stack(channels, axis=2).round().astype(np.uint8)


def save_rotated(path: Path, upright: np.ndarray, orientation: int = 6) -> None:
    """A JPEG whose pixels lie on their side and whose EXIF says so (6: turn clockwise to view)."""
    stored = {6: np.rot90(upright), 8: np.rot90(upright, -1), 3: np.rot90(upright, 2)}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, quality=95)


def categories() -> list[dict[str, Any]]:
    return [{"id": 90, "name": "zebra"}, {"id": 3, "name": "ant"}, {"id": 17, "name": "cat"}]


def train_content() -> dict[str, Any]:
    """Ids with gaps and out of order, both kinds of run lengths, a crowd, images without objects."""
    crowd = np.zeros((40, 60), np.uint8)
    crowd[5:20, 10:50] = 1
    runs = uncompressed(crowd)
    compressed = coco_mask.encode(np.asfortranarray(crowd))
    box = [10.25, 5.125, 20.1, 10.3]
    rest = {"iscrowd": 0, "segmentation": [[10.25, 5.125, 30.35, 5.125, 30.35, 15.425]]}
    return {
        "info": {"year": 2026},
        "images": [
            {"id": 700, "file_name": "plain.jpg", "height": 40, "width": 60},
            {"id": 12, "file_name": ROTATED, "height": 50, "width": 30},
            {"id": 5, "file_name": "deeper/grey.png", "height": 32, "width": 32},
            {"id": 900, "file_name": "bäume.png", "height": 40, "width": 60},
        ],
        "annotations": [
            {"id": 31, "image_id": 900, "category_id": 90, "bbox": box, "area": 207.03, **rest},
            {
                "id": 8,
                "image_id": 700,
                "category_id": 17,
                "bbox": [10, 5, 40, 15],
                "area": 600,
                "iscrowd": 1,
                "segmentation": {"size": [40, 60], "counts": runs},
            },
            {
                "id": 9,
                "image_id": 700,
                "category_id": 3,
                "bbox": [-0.4, 0.1 + 0.2, 60.7, 39.9],
                "area": 1.0 / 3,
                "iscrowd": 0,
                "segmentation": {"size": [40, 60], "counts": compressed["counts"].decode()},
            },
            {"id": 10, "image_id": 12, "category_id": 3, "bbox": [2, 30, 10, 18], "area": 180, "iscrowd": 0},
        ],
        "categories": categories(),
    }


def uncompressed(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed run lengths: column by column, beginning with zeros."""
    flat = np.concatenate([[0], mask.ravel(order="F")])
    edges = np.flatnonzero(np.diff(flat)) if flat.any() else np.array([], int)
    return np.diff(np.concatenate([[0], edges, [mask.size]])).tolist()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_coco(root: Path) -> None:
    """COCO's own layout; `train_content` in train2017, two plain images in val2017."""
    train, val = root / "train2017", root / "val2017"
    (train / "deeper").mkdir(parents=True)
    val.mkdir()
    Image.fromarray(picture(40, 60)).save(train / "plain.jpg", quality=95)
    Image.fromarray(picture(40, 60)).save(train / "bäume.png")
    Image.fromarray(picture(32, 32)[:, :, 0]).save(train / "deeper/grey.png")
    save_rotated(train / ROTATED, picture(50, 30))
    for index in range(2):
        Image.fromarray(picture(20, 30, index)).save(val / f"{index}.png")
    write_json(root / "annotations/instances_train2017.json", train_content())
    write_json(
        root / "annotations/instances_val2017.json",
        {
            "images": [{"id": i, "file_name": f"{i}.png", "height": 20, "width": 30} for i in range(2)],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 17, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}
            ],
            "categories": categories(),
        },
    )
