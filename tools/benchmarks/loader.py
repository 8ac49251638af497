"""Images a second from files to batches: our loader beside what torchvision's documentation does.

JPEGs of 640 x 480 with seven boxes each, decoded, resized to 800, flipped, batched. The other is PIL, transforms v2,
float32 and normalised in the worker, a dict of tensors for each image.
"""

from __future__ import annotations

import json
import tempfile
from argparse import Namespace
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from .annotations import write_coco
from .timing import Result, in_turns

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT_SIDE, MAX_SIZE = 800, 1333
USUAL = "torchvision"


def loader(arguments: Namespace) -> Iterator[Result]:
    """A result for each batch size: an epoch of each, in turns, with worker processes and with threads."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_pictures(folder, arguments.images)
        check_same_pictures(folder)
        for batch_size in arguments.batch:
            loaders: dict[str, Any] = {USUAL: usual_loader(folder, batch_size, arguments.workers)}
            for mode in ("process", "thread"):
                loaders[mode] = our_loader(folder, batch_size, arguments.workers, mode)
            # A queue of no length reads all and keeps nothing.
            epochs = {name: partial(deque, loader, 0) for name, loader in loaders.items()}
            seconds, _ = in_turns(epochs, arguments.repeats)
            shown = {name: len(loader) * batch_size for name, loader in loaders.items()}
            rate = {name: round(shown[name] / sorted(s)[len(s) // 2], 1) for name, s in seconds.items()}
            setting = {"workers": arguments.workers, "batch": batch_size, "images": arguments.images}
            pairs = [("process", USUAL), ("thread", USUAL)]
            yield Result("loader", setting, "the same pictures", seconds, pairs, {"images_a_second": rate})


def write_pictures(folder: Path, num_images: int) -> None:
    """Textured JPEGs of about 77 kB in COCO's layout, each with seven boxes."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    images, annotations = [], []
    for index in range(num_images):
        coarse = generator.integers(0, 256, (30, 40, 3), np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize((640, 480), Image.Resampling.BICUBIC), np.int16)
        picture = (picture + generator.normal(0, 12, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / f"images/{index:06d}.jpg", quality=78)
        images.append({"id": index, "file_name": f"{index:06d}.jpg", "height": 480, "width": 640})
        for _ in range(7):
            x, y = generator.uniform(0, 500), generator.uniform(0, 400)
            w, h = generator.uniform(10, 120), generator.uniform(10, 70)
            annotations.append(
                {"id": len(annotations) + 1, "image_id": index, "category_id": 1 + len(annotations) % 80}
                | {"bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            )
    write_coco(folder / "all.json", images, annotations)


def our_loader(folder: Path, batch_size: int, num_workers: int, mode: Any, *, flip: float = 0.5) -> Any:
    """The training loader of a detector."""
    import albumentations as A

    from tasks.data.datamodule import DataModule
    from tasks.data.formats.coco import CocoData
    from tasks.preprocessing import Preprocessing

    source = CocoData(folder, train_images="images", train_annotations="all.json")
    return DataModule(
        source,
        Preprocessing(short_side=SHORT_SIDE, max_size=MAX_SIZE),
        augmentation=[A.HorizontalFlip(p=flip)],
        batch_size=batch_size,
        num_workers=num_workers,
        workers=mode,
    ).train_dataloader()


def usual_loader(folder: Path, batch_size: int, num_workers: int) -> Any:
    """The same by PIL and torchvision's transforms v2."""
    from torch.utils.data import DataLoader

    return DataLoader(
        UsualDataset(folder),  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        collate_fn=lists,
        drop_last=True,
        persistent_workers=num_workers > 0,
    )


class UsualDataset:
    """Images as float tensors, targets as dicts of tensors."""

    def __init__(self, folder: Path, flip: float = 0.5):
        import torch
        from torchvision.transforms import v2

        self.folder = folder
        content = json.loads((folder / "all.json").read_text())
        self.images = content["images"]
        self.objects: list[list[dict[str, Any]]] = [[] for _ in self.images]
        for annotation in content["annotations"]:
            self.objects[annotation["image_id"]].append(annotation)
        self.transforms = v2.Compose(
            [
                v2.ToImage(),
                v2.Resize(SHORT_SIDE, max_size=MAX_SIZE),
                v2.RandomHorizontalFlip(flip),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Any, dict[str, Any]]:
        import torch
        from PIL import Image
        from torchvision import tv_tensors

        record, objects = self.images[index], self.objects[index]
        image = Image.open(self.folder / "images" / record["file_name"]).convert("RGB")
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        target = {
            "boxes": tv_tensors.BoundingBoxes(
                boxes, format="XYXY", canvas_size=(record["height"], record["width"])
            ),  # type: ignore[call-overload]
            "labels": torch.tensor([o["category_id"] for o in objects]),
            "image_id": torch.tensor([record["id"]]),
            "area": torch.tensor([o["area"] for o in objects]),
            "iscrowd": torch.tensor([o["iscrowd"] for o in objects]),
        }
        return self.transforms(image, target)


def lists(samples: list[Any]) -> tuple[Any, ...]:
    """Images and targets of a batch as two lists, as torchvision's detectors take them."""
    return tuple(zip(*samples, strict=True))


def check_same_pictures(folder: Path) -> None:
    """Fails unless both give the same pixels and boxes of an image, where nothing is left to chance."""
    import torch

    batch = next(iter(our_loader(folder, 1, 0, "process", flip=0)))
    index = int(batch.image_ids[0])
    image, target = UsualDataset(folder, 0)[index]
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    height, width = batch.sizes[0].tolist()
    difference = (image * std + mean) * 255 - batch.images[0, :, :height, :width]
    assert difference.abs().mean() < 1, "the two loaders show different pixels"
    assert torch.allclose(target["boxes"], batch.boxes[0], atol=0.01, rtol=1e-3), "they show different boxes"
