"""Memory of a large data set's annotations: ours in flat arrays beside the objects of its JSON.

Of the main process and its workers (proportional set size: shared pages are divided among those that share them)
after each epoch of reading every image's target. "parsed" is the run that parses the file, "cached" one that finds it
in the cache. Linux alone.
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .timing import Result


def annotations(arguments: Namespace) -> Iterator[Result]:
    """GB after each epoch, of each in a fresh process. Exit status 1 where ours takes more than `--max-gb`, or
    grows."""
    kinds = {"parsed": read_flat, "cached": read_flat} | (
        {} if arguments.alone else {"objects": read_objects}
    )
    context = multiprocessing.get_context("spawn")
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.json"
        write_many(path, arguments.images, arguments.objects)
        for name, read in kinds.items():
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(
                target=measure, args=(theirs, read, path, arguments.workers, arguments.epochs)
            )
            process.start()
            theirs.close()
            found[name] = ours.recv()
            process.join()
    names = ("images", "objects", "workers")
    result = Result(
        "annotations", {name: getattr(arguments, name) for name in names}, "", others={"GB": found}
    )
    if not arguments.alone:
        result.others["share_of_memory"] = max(found["cached"]["after_epochs"]) / max(
            found["objects"]["after_epochs"]
        )
    yield result
    for name in ("parsed", "cached"):
        first, *_, last = after = found[name]["after_epochs"]
        if arguments.max_gb is not None and (max(after) > arguments.max_gb or last > 1.02 * first):
            sys.exit(f"error: {name}: {after} GB, which is above {arguments.max_gb} or grows")


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

    from tasks.data.formats.cache import cached
    from tasks.data.formats.coco import read_coco_json
    from tasks.data.quality.annotation_checks import diagnose_annotations

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
    for pid in [os.getpid(), *(child.pid for child in multiprocessing.active_children())]:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        yield 1024 * next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
