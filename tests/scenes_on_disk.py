"""Embedded scenes as a person's own data: pictures and annotation files in COCO's layout."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

import tasks.data


def write_scenes(root: Path, *, num_train: int = 6, num_val: int = 3, size: int = 96) -> None:
    """`root/train2017`, `root/val2017` and their annotations; the outline of an object is its box."""
    source = tasks.data.open("digits", num_train=num_train, num_val=num_val, size=size)
    (root / "annotations").mkdir(parents=True)
    for name in ("train", "val"):
        split = source.split(name)
        truth = split.annotations
        (root / f"{name}2017").mkdir()
        images, objects = [], []
        for index, image_id in enumerate(truth.image_ids.tolist()):
            file = f"scene{index}.png"
            Image.fromarray(np.asarray(split.image(index))).save(root / f"{name}2017" / file)
            images.append({"id": image_id, "file_name": file, "height": size, "width": size})
            for row in range(truth.offsets[index], truth.offsets[index + 1]):
                x, y, width, height = box = truth.boxes[row].tolist()
                outline = [x, y, x + width, y, x + width, y + height, x, y + height]
                objects.append(
                    {
                        "id": row + 1,
                        "image_id": image_id,
                        "iscrowd": 0,
                        "bbox": box,
                        "area": width * height,
                        "category_id": int(truth.category_ids[truth.labels[row]]),
                        "segmentation": [outline],
                    }
                )
        categories = zip(truth.category_ids.tolist(), truth.class_names, strict=True)
        content = {
            "images": images,
            "annotations": objects,
            "categories": [{"id": key, "name": text} for key, text in categories],
        }
        (root / "annotations" / f"instances_{name}2017.json").write_text(json.dumps(content))
