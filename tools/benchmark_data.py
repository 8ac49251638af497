"""What the data pipeline costs: images a second, and memory of the annotations. One JSON line each.

python tools/benchmark_data.py loader --workers 2
python tools/benchmark_data.py annotations --images 118287 --objects 860001 --workers 2 --epochs 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHORT_SIDE, MAX_SIZE = 800, 1333
NOTES = """loader: JPEGs of 640 x 480 with seven boxes each, decoded, resized to 800, flipped, batched. The other is
what torchvision's documentation does: PIL, transforms v2, float32 and normalised in the worker, a dict of tensors for
each image. Both in turn, in one process; median and least images a second of the rounds.

annotations: memory of the main process and its workers (proportional set size: shared pages are divided among those
that share them) after each epoch of reading every image's target. The other keeps the JSON's objects. "parsed" is the
run that parses the file, "cached" one that finds it in the cache. Linux alone."""


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, epilog=NOTES
    )
    commands = parser.add_subparsers(dest="command", required=True)
    loader = commands.add_parser("loader", help="images a second of both loaders")
    loader.add_argument("--images", type=int, default=256, help="in one epoch")
    loader.add_argument("--batch", type=int, default=8)
    loader.add_argument("--rounds", type=int, default=5)
    loader.add_argument("--modes", default="process,thread")
    annotations = commands.add_parser("annotations", help="memory of a large data set's annotations")
    annotations.add_argument("--images", type=int, default=118_287)
    annotations.add_argument("--objects", type=int, default=860_001)
    annotations.add_argument("--epochs", type=int, default=2)
    annotations.add_argument(
        "--max-gb", type=float, default=None, help="exit status 1 above it, or when it grows"
    )
    annotations.add_argument("--alone", action="store_true", help="leave out the other, which takes 6 GB")
    for command in (loader, annotations):
        command.add_argument("--workers", type=int, default=2)
        command.add_argument("--min-ratio", type=float, default=None, help="exit status 1 below it")
        command.add_argument(
            "--device", choices=["cpu", "cuda"], default="cpu", help="these run on the CPU with any"
        )
    arguments = parser.parse_args()
    run = {"loader": benchmark_loader, "annotations": benchmark_annotations}[arguments.command]
    with tempfile.TemporaryDirectory() as folder:
        result, is_good = run(arguments, Path(folder))
    print(json.dumps({"benchmark": arguments.command, **result}))
    sys.exit(0 if is_good else 1)


# Images a second.


def benchmark_loader(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], bool]:
    """Rates of the usual loader and of ours with each of `--modes`; good where all reach `--min-ratio`."""
    write_pictures(folder, arguments.images)
    modes = arguments.modes.split(",")
    loaders: dict[str, Any] = {"torchvision": usual_loader(folder, arguments.batch, arguments.workers)}
    for mode in modes:
        loaders[mode] = our_loader(folder, arguments.batch, arguments.workers, mode)
    check_same_pictures(folder)
    seconds: dict[str, list[float]] = {name: [] for name in loaders}
    for loader in loaders.values():
        sum(1 for _ in loader)  # starts processes that last, reads files for the first time
    for _ in range(arguments.rounds):
        for name, loader in loaders.items():
            start = time.perf_counter()
            num_batches = sum(1 for _ in loader)
            seconds[name].append((time.perf_counter() - start) / (num_batches * arguments.batch))
    result: dict[str, Any] = {"workers": arguments.workers, "batch": arguments.batch, "unit": "images/s"}
    for name, values in seconds.items():
        result[name] = {"median": round(1 / statistics.median(values), 1), "min": round(1 / max(values), 1)}
    usual = statistics.median(seconds["torchvision"])
    result["ratio"] = {mode: round(usual / statistics.median(seconds[mode]), 2) for mode in modes}
    return result, min(result["ratio"].values()) >= (arguments.min_ratio or 0)


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

    from tasks.data.coco import CocoData
    from tasks.data.datamodule import DataModule
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


def usual_loader(folder: Path, batch_size: int, num_workers: int, *, flip: float = 0.5) -> Any:
    """The same by PIL and torchvision's transforms v2."""
    from torch.utils.data import DataLoader

    return DataLoader(
        UsualDataset(folder, flip),  # type: ignore[arg-type]
        batch_size=batch_size,
        shuffle=True,
        num_workers=num_workers,
        collate_fn=lists,
        drop_last=True,
        persistent_workers=num_workers > 0,
    )


class UsualDataset:
    """Images as float tensors, targets as dicts of tensors."""

    def __init__(self, folder: Path, flip: float):
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


# Memory of annotations.


def benchmark_annotations(arguments: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], bool]:
    """Memory after each epoch, of each in a fresh process; good where ours is within the limits."""
    import multiprocessing

    path = folder / "all.json"
    write_many(path, arguments.images, arguments.objects)
    kinds = {"parsed": read_flat, "cached": read_flat} | (
        {} if arguments.alone else {"objects": read_objects}
    )
    context = multiprocessing.get_context("spawn")
    result: dict[str, Any] = {
        "images": arguments.images,
        "objects": arguments.objects,
        "workers": arguments.workers,
        "unit": "GB",
    }
    for name, read in kinds.items():
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=measure, args=(theirs, read, path, arguments.workers, arguments.epochs)
        )
        process.start()
        theirs.close()
        result[name] = ours.recv()
        process.join()
    flat = [*result["parsed"]["after_epochs"], *result["cached"]["after_epochs"]]
    is_good = arguments.max_gb is None or (
        max(flat) <= arguments.max_gb
        and all(
            result[k]["after_epochs"][-1] < 1.02 * result[k]["after_epochs"][0] for k in ("parsed", "cached")
        )
    )
    if not arguments.alone:
        ratios = sorted(
            o / c for o, c in zip(*(result[k]["after_epochs"] for k in ("objects", "cached")), strict=True)
        )
        result["ratio"] = {"median": round(statistics.median(ratios), 2), "min": round(ratios[0], 2)}
        is_good &= ratios[0] >= (arguments.min_ratio or 0)
    return result, is_good


def write_many(path: Path, num_images: int, num_objects: int) -> None:
    """A COCO file of so many images and objects; a tenth of the images have none."""
    import numpy as np

    generator = np.random.default_rng(0)
    images = [
        {"id": 3 * i, "file_name": f"{i:012d}.jpg", "height": 480, "width": 640} for i in range(num_images)
    ]
    owners = 3 * generator.integers(num_images // 10, num_images, num_objects)
    shape = num_objects, 2
    corners, extents = generator.uniform(0, 300, shape), generator.uniform(1, 150, shape)
    boxes = np.concatenate([corners, extents], axis=1).round(2)
    annotations = [
        {
            "id": i + 1,
            "image_id": owner,
            "category_id": 1 + i % 80,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for i, (owner, box) in enumerate(zip(owners.tolist(), boxes.tolist(), strict=True))
    ]
    write_coco(path, images, annotations)


def write_coco(path: Path, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> None:
    """An annotation file of 80 classes."""
    categories = [{"id": k, "name": f"class {k}"} for k in range(1, 81)]
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def read_flat(path: Path) -> tuple[int, Callable[[int], Any]]:
    """Number of images, and what gives the target of one: as the data module has them."""
    import numpy as np

    from tasks.data.annotation_cache import cached
    from tasks.data.checks import diagnose_annotations
    from tasks.data.coco_json import read_coco_json

    def read() -> Any:
        raw = read_coco_json(path, "train", path.parent, masks=False)
        diagnosis = diagnose_annotations(raw)
        assert not diagnosis.rows
        return raw.to_annotations(np.arange(len(raw.ids)), np.ones(len(raw), bool), None)

    annotations = cached(path, read, {})
    return len(annotations), annotations.target


def read_objects(path: Path) -> tuple[int, Callable[[int], Any]]:
    """The same from the objects of the JSON, by image."""
    content = json.loads(path.read_text())
    of_image: dict[int, list[dict[str, Any]]] = {image["id"]: [] for image in content["images"]}
    for annotation in content["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    ids = list(of_image)

    def target(index: int) -> list[Any]:
        return [(o["bbox"], o["category_id"], o["iscrowd"], o["area"], o["id"]) for o in of_image[ids[index]]]

    return len(ids), target


class Targets:
    """A data set that reads a target and gives a number."""

    def __init__(self, length: int, target: Callable[[int], Any]):
        self.length = length
        self.target = target

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> int:
        self.target(index)
        return index


def measure(result: Any, read: Callable[[Path], Any], path: Path, num_workers: int, num_epochs: int) -> None:
    """Sends the memory of this process and its workers after each epoch, in GB, and the seconds of reading."""
    from torch.utils.data import DataLoader

    start = time.perf_counter()
    length, target = read(path)
    seconds = time.perf_counter() - start
    loader = DataLoader(
        Targets(length, target),  # type: ignore[arg-type]
        batch_size=256,
        shuffle=True,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        multiprocessing_context="fork" if num_workers else None,
    )
    after = []
    for _ in range(num_epochs):
        assert sum(len(batch) for batch in loader) == length
        after.append(round(sum(proportional_set_size()) / 1e9, 3))
    result.send({"after_epochs": after, "seconds_to_read": round(seconds, 2)})


def proportional_set_size() -> Iterator[int]:
    """Bytes of this process and of each of its children."""
    import multiprocessing
    import os

    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        yield 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


if __name__ == "__main__":
    main()
