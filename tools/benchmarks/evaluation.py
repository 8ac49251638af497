"""COCO's numbers of a whole data set: our metric beside pycocotools and faster-coco-eval, each in a fresh process."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import resource
import time
from argparse import Namespace
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask

from tasks.contracts import Batch, Detections
from tasks.metrics.coco import CocoMetric

from .timing import Result

NUM_CLASSES = 80
SIZE = (480, 640)
SHAPES, SHIFTS = 200, 8  # ellipses that masks are taken from, and places that each is moved to


def eval(arguments: Namespace) -> Iterator[Result]:
    """A result for boxes and one for masks."""
    for kind in arguments.type:
        setting = {"type": kind, "images": arguments.images, "dets": arguments.images * arguments.dets}
        names = ["ours", *arguments.against]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        peaks: dict[str, int] = {}
        check = ""
        for _ in range(arguments.repeats):
            arrays = {}
            for name in names:
                taken, peaks[name], arrays[name] = in_a_fresh_process(name, kind, arguments)
                seconds[name].append(taken)
            for name in arguments.against:
                differences = [
                    float(np.abs(mine - other).max())
                    for mine, other in zip(arrays["ours"], arrays[name], strict=True)
                ]
                assert max(differences) <= (0 if name == "pycocotools" else 1e-6), differences
                check += f"precision and recall differ from {name} by {max(differences):.0e}; "
        pairs = [("ours", name) for name in arguments.against]
        shares = {name: round(peaks["ours"] / max(peaks[name], 1), 3) for name in arguments.against}
        yield Result(
            "eval",
            setting,
            check.rstrip("; "),
            seconds,
            pairs,
            {"peak_bytes": peaks, "share_of_memory": shares},
        )


def in_a_fresh_process(name: str, kind: str, arguments: Namespace) -> tuple[float, int, list[np.ndarray]]:
    """Seconds, the growth of memory in bytes, and precision and recall."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (name, kind, arguments.images, arguments.dets))


def measure(
    name: str, kind: str, num_images: int, num_detections: int
) -> tuple[float, int, list[np.ndarray]]:
    """Scores the same random data set with the evaluator called `name`. The detections come as a model gives
    them: as tensors of a batch to us, as a list of dicts to the others."""
    masks = kind == "segm"
    truth = random_truth(num_images)
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    taken = 0.0
    if name == "ours":
        metric = CocoMetric(truth, masks=masks)
        for first in range(0, num_images, 50):
            batch, found, run_lengths = random_detections(
                truth, range(first, min(first + 50, num_images)), num_detections
            )
            began = time.perf_counter()
            metric.update(found, batch, run_lengths if masks else None)
            taken += time.perf_counter() - began
        began = time.perf_counter()
        arrays = list(metric.precision_and_recall(masks=masks))
    else:
        records = []
        for first in range(0, num_images, 50):
            images = range(first, min(first + 50, num_images))
            records += to_records(*random_detections(truth, images, num_detections), masks=masks)
        coco, evaluation = implementation(name)
        dataset = to_coco(truth, masks=masks)
        began = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            gt = coco()
            gt.dataset = dataset
            gt.createIndex()
            run = evaluation(gt, gt.loadRes(records), kind)
            run.evaluate()
            run.accumulate()
        arrays = [run.eval["precision"], run.eval["recall"]]
    taken += time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return taken, (peak - base) * 1024, [np.asarray(a) for a in arrays]


def implementation(name: str) -> tuple[Any, Any]:
    """The classes COCO and COCOeval of a library."""
    if name == "faster_coco_eval":
        from faster_coco_eval import COCO, COCOeval_faster  # pyright: ignore[reportMissingImports]

        return COCO, COCOeval_faster
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    return COCO, COCOeval


def library() -> tuple[np.ndarray, list[list[bytes]]]:
    """Boxes (SHAPES, SHIFTS, 4) xywh of ellipses and their run lengths."""
    generator = np.random.default_rng(7)
    height, width = SIZE
    rows, columns = np.mgrid[:height, :width] + 0.5
    boxes = np.empty((SHAPES, SHIFTS, 4))
    counts: list[list[bytes]] = []
    for shape in range(SHAPES):
        side = generator.uniform(8, 250, 2)
        centre = generator.uniform(0, 1, 2) * (width - side[0], height - side[1]) + side / 2
        counts.append([])
        for shift in range(SHIFTS):
            (x, y), (w, h) = centre + generator.normal(0, 0.08, 2) * side * (shift > 0), side
            inside = ((columns - x) / w) ** 2 + ((rows - y) / h) ** 2 <= 0.25
            boxes[shape, shift] = x - w / 2, y - h / 2, w, h
            counts[-1].append(coco_mask.encode(np.asfortranarray(inside, dtype=np.uint8))["counts"])  # pyright: ignore[reportArgumentType]
    return boxes, counts


def random_truth(num_images: int) -> Any:
    """What the metric reads of annotations: about seven objects an image, one per cent of them crowds."""
    generator = np.random.default_rng(0)
    boxes, counts = library()
    offsets = np.concatenate([[0], generator.poisson(7, num_images).cumsum()])
    shapes = generator.integers(0, SHAPES, offsets[-1])
    rle = [{"size": list(SIZE), "counts": counts[shape][0]} for shape in shapes]
    return SimpleNamespace(
        class_names=[f"class {k}" for k in range(NUM_CLASSES)],
        category_ids=np.arange(1, NUM_CLASSES + 1),
        image_ids=np.arange(1, num_images + 1),
        sizes=np.array([SIZE] * num_images),
        offsets=offsets,
        ids=np.arange(1, offsets[-1] + 1),
        labels=generator.integers(0, NUM_CLASSES, offsets[-1]),
        boxes=boxes[shapes, 0],
        areas=boxes[shapes, 0, 2:].prod(axis=1) * np.pi / 4,
        is_crowd=generator.random(offsets[-1]) < 0.012,
        segmentation=lambda index: rle[index],
        shapes=shapes,
        library=(boxes, counts),
    )


def random_detections(truth: Any, images: range, number: int) -> tuple[Batch, Detections, list[bytes]]:
    """A third of them on objects, the others anywhere, best first."""
    generator = np.random.default_rng(1 + images.start)
    boxes, counts = truth.library
    shape = generator.integers(0, SHAPES, (len(images), number))
    labels = generator.integers(0, NUM_CLASSES, shape.shape)
    for row, image in enumerate(images):
        start, stop = truth.offsets[image : image + 2]
        if stop > start:
            near = np.flatnonzero(generator.random(number) < 0.33)
            like = generator.integers(start, stop, len(near))
            shape[row, near], labels[row, near] = truth.shapes[like], truth.labels[like]
    shift = generator.integers(0, SHIFTS, shape.shape)
    found = torch.tensor(boxes[shape, shift], dtype=torch.float32)
    found[..., 2:] += found[..., :2]
    scores = -np.sort(-generator.random(shape.shape).astype(np.float32))
    run_lengths = [counts[i][j] for i, j in zip(shape.flat, shift.flat, strict=True)]
    sizes = torch.tensor([SIZE] * len(images))
    nothing = torch.zeros(len(images), 0)
    batch = Batch(
        nothing, sizes, sizes, torch.tensor([i + 1 for i in images]), nothing, nothing.long(), nothing.bool()
    )
    return batch, Detections(found, torch.tensor(scores), torch.tensor(labels)), run_lengths


def to_records(
    batch: Batch, found: Detections, run_lengths: list[bytes], *, masks: bool
) -> list[dict[str, Any]]:
    """The detections as COCO's tools take them."""
    boxes = found.boxes.double()
    boxes[..., 2:] -= boxes[..., :2]
    ids = batch.image_ids[:, None].expand(found.labels.shape)
    columns = (ids, found.labels + 1, boxes, found.scores.double())
    rows = zip(*(c.flatten(0, 1).tolist() for c in columns), run_lengths, strict=True)
    return [
        {"image_id": image, "category_id": category, "score": score}
        | ({"segmentation": {"size": list(SIZE), "counts": counts}} if masks else {"bbox": box})
        for image, category, box, score, counts in rows
    ]


def to_coco(truth: Any, *, masks: bool) -> dict[str, Any]:
    """The annotations as COCO's tools take them."""
    owners = np.repeat(truth.image_ids, np.diff(truth.offsets)).tolist()
    annotations = [
        {"id": int(truth.ids[m]), "image_id": owners[m], "category_id": int(truth.labels[m]) + 1,
         "bbox": truth.boxes[m].tolist(), "area": float(truth.areas[m]), "iscrowd": int(truth.is_crowd[m])}
        | ({"segmentation": truth.segmentation(m)} if masks else {})
        for m in range(len(truth.ids))
    ]  # fmt: skip
    return {
        "images": [{"id": int(i), "height": SIZE[0], "width": SIZE[1]} for i in truth.image_ids],
        "categories": [{"id": k, "name": str(k)} for k in range(1, NUM_CLASSES + 1)],
        "annotations": annotations,
    }
