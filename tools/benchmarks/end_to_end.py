"""Training from image files to weights: our loader and detector beside torchvision's."""

from __future__ import annotations

import json
import tempfile
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.harness.guards import check_boxes

from .annotations import write_coco
from .loader import our_loader, usual_loader, write_pictures
from .pairs import compare_losses, detector_pair, make_batch
from .timing import Result, autocast, beside_torchvision


def end_to_end(arguments: Namespace) -> Iterator[Result]:
    """A result for each batch size: an epoch of each, in turns."""
    for num_images in arguments.batch:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            if arguments.root is None:
                write_pictures(folder, arguments.images)
            else:
                link_pictures(Path(arguments.root), folder, arguments.images)
            yield compare(arguments, folder, num_images)


def compare(arguments: Namespace, folder: Path, batch_size: int) -> Result:
    """Times epochs over the pictures in `folder`."""
    device = arguments.device
    batch = make_batch(1, 256, 320, 3, masks=False)
    ours, theirs = detector_pair(arguments.model, batch)
    check = compare_losses(ours, theirs, batch)
    ours.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    theirs.to(device)
    theirs.transform.normalize = lambda image: image  # its loader has done so
    best = deepcopy(theirs).to(memory_format=torch.channels_last)
    loaders = {
        "ours": our_loader(folder, batch_size, arguments.workers, "thread"),
        "torchvision": usual_loader(folder, batch_size, arguments.workers),
    }

    def our_losses(batch: Any) -> Iterable[Tensor]:
        check_boxes(batch)
        batch = batch.to(device)
        return ours.losses(ours.features(batch), batch).values()

    def losses_of(model: Any) -> Callable[[Any], Iterable[Tensor]]:
        first = 1 if hasattr(model, "rpn") else 0  # its R-CNNs count classes from 1, as the files do

        def losses(batch: Any) -> Iterable[Tensor]:
            images, targets = batch
            targets = [
                {"boxes": t["boxes"].to(device), "labels": (t["labels"] - 1 + first).to(device)}
                for t in targets
            ]
            return model([image.to(device) for image in images], targets).values()

        return losses

    variants, pairs = beside_torchvision(
        lambda precision: epoch(ours, our_losses, loaders["ours"], precision, device),
        lambda precision: epoch(theirs, losses_of(theirs), loaders["torchvision"], precision, device),
        lambda precision: epoch(best, losses_of(best), loaders["torchvision"], precision, device),
        arguments.precision,
    )
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(arguments.repeats):
        for name, run in variants.items():
            seconds[name].append(run())
    rate = {name: round(1 / min(s), 2) for name, s in seconds.items()}
    setting = {
        "model": arguments.model,
        "batch": batch_size,
        "workers": arguments.workers,
        "seconds": "an image",
    }
    return Result("end-to-end", setting, check, seconds, pairs, {"images_a_second": rate})


def epoch(
    model: Any, losses: Callable[[Any], Iterable[Tensor]], loader: Any, precision: str, device: str
) -> Callable[[], float]:
    """Seconds an image of an epoch, after a first step that does not count."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.0, momentum=0.9)

    def run() -> float:
        images, began = 0, 0.0
        for index, batch in enumerate(loader):
            with autocast(precision, device):
                total = torch.stack(list(losses(batch))).sum()
            total.backward()
            optimizer.step()
            optimizer.zero_grad()
            if device == "cuda":
                torch.cuda.synchronize()
            if index == 0:
                began = time.perf_counter()
            else:
                images += len(batch) if not isinstance(batch, tuple) else len(batch[0])
        if not images:
            raise SystemExit("error: too few pictures for two batches; give --images more")
        return (time.perf_counter() - began) / images

    return run


def link_pictures(root: Path, folder: Path, most: int) -> None:
    """Puts the first `most` pictures of COCO's folder `root` that have objects into `folder`, as `write_pictures`
    does; ids run from 0 and categories from 1."""
    path = root / "annotations" / "instances_train2017.json"
    if not path.is_file():
        raise SystemExit(
            f"error: --root {root} has no annotations/instances_train2017.json; give COCO's folder"
        )
    content = json.loads(path.read_text())
    category = {c["id"]: i + 1 for i, c in enumerate(sorted(content["categories"], key=lambda c: c["id"]))}
    objects: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        if not annotation["iscrowd"] and min(annotation["bbox"][2:]) > 1:
            objects.setdefault(annotation["image_id"], []).append(annotation)
    (folder / "images").symlink_to((root / "train2017").resolve())
    images, annotations = [], []
    for image in [image for image in content["images"] if image["id"] in objects][:most]:
        for one in objects[image["id"]]:
            kept = {k: one[k] for k in ("bbox", "area", "iscrowd")}
            number = {"id": len(annotations) + 1, "image_id": len(images)}
            annotations.append({**kept, **number, "category_id": category[one["category_id"]]})
        images.append({**{k: image[k] for k in ("file_name", "height", "width")}, "id": len(images)})
    write_coco(folder / "all.json", images, annotations)
