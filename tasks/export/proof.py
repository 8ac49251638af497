"""What an exported file finds beside what the model finds: equal, or the file is not written.

Detections are compared as sets, because near ties change places.

Legend, beside that of tasks/contracts.py:
    expected  what the model finds     found  what the file finds
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.loading.collate import batch_images

from .graph import NetworkGraph, batch_of, outputs_of, padded, random_batch, step_of

Arrays = dict[str, np.ndarray]
SCORE, IOU, MASK, LOGIT = 1e-4, 0.999, 1e-3, 1e-4
"""Differences that are allowed: of scores, overlaps of boxes, probabilities of masks, logits."""
PIXELS = 0.01
"""Pixels that a side of a box may move where that is more of an overlap than `IOU` allows: of tiny boxes."""
MASK_IOU, EQUAL_PIXELS = 0.98, 0.999
"""Overlap of pasted masks, and share of a picture whose class must be the same: what lies on an edge may flip."""


class Differs(ValueError):
    """A file that does not find what the model finds."""


@dataclass
class Differences:
    """The largest that were seen."""

    score: float = 0.0
    iou: float = 1.0
    mask: float = 0.0
    logit: float = 0.0
    detections: int = 0
    """How many were compared."""
    batches: int = 0

    def __str__(self) -> str:
        if not self.detections:
            return f"{self.batches} batches, logits or shares within {self.logit:.1e}"
        masks = f", masks {self.mask:.1e}" if self.mask else ""
        return (
            f"{self.batches} batches, {self.detections} detections, scores within {self.score:.1e}, "
            f"IoU at least {self.iou:.6f}{masks}"
        )


def check_network(
    network: NetworkGraph, run: Callable[[Arrays], Arrays], smallest: int = 1, seed: int = 1
) -> Differences:
    """Compares batches of sizes that were not traced. `smallest` is the least side of a batch. Raises `Differs`."""
    seen = Differences()
    for number, (images, sizes) in enumerate(_batches(network, smallest, seed)):
        with torch.inference_mode():
            found = network.model(batch_of(images, sizes))
        expected = {name: value.numpy() for name, value in outputs_of(found).items()}
        where = f"batch {number + 1}, {len(images)} images of {tuple(images.shape[2:])}"
        compare(expected, run({"images": images.numpy(), "sizes": sizes.numpy()}), seen, where)
    return seen


def _batches(network: NetworkGraph, smallest: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Five sizes, batches of one to three with differing sizes in them, and images in which nothing can be found."""
    model, step = network.model, step_of(network.model)
    side = model.preprocessing.center_crop
    if side is not None:
        for count in (1, 2, 3):
            yield random_batch(model, [(side, side)] * count, seed + count)
        return
    stride = max(info.stride for info in network.extractor().feature_info.values())
    least = max(smallest, min(stride, 64))
    long, short = max(2 * stride, 3 * step, least), max(stride, least)
    for sizes in (
        [(long + step, long)],
        [(short, long), (short - short // 3, long - 7)],
        [(long, short), (long - 1, short), (long // 2, short // 2)],
        [(long + 2 * step, short)],
        [(least, least)],
    ):
        images, valid = random_batch(model, [padded(model, *sizes[0]), *sizes[1:]], seed + sizes[0][0])
        yield images, valid
    if "boxes" in network.output_names():
        yield images * 0, valid * 0


def check_pictures(
    predict: Callable[[Sequence[Any]], list[Any]],
    run: Callable[[Sequence[Any]], list[Any]],
    pictures: Sequence[Any],
) -> Differences:
    """Compares what both say of pictures, end to end. Raises `Differs`."""
    seen = Differences()
    for number, (expected, found) in enumerate(zip(predict(pictures), run(pictures), strict=True)):
        compare_results(expected, found, seen, f"picture {number + 1}")
    return seen


def random_pictures(seed: int = 0) -> list[np.ndarray]:
    """Colour gradients with noise, of several shapes, some alike."""
    generator = np.random.default_rng(seed)
    shapes = ((240, 320), (333, 200), (240, 320), (97, 301), (480, 360), (64, 64))
    pictures = []
    for height, width in shapes:
        coarse = generator.integers(0, 256, (height // 16 + 1, width // 16 + 1, 3))
        smooth = coarse.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
        pictures.append((smooth + generator.integers(-20, 21, smooth.shape)).clip(0, 255).astype(np.uint8))
    return pictures


def compare(expected: Arrays, found: Arrays, seen: Differences, where: str) -> None:
    """Adds the differences between the outputs for a batch to `seen`. Raises `Differs` where one is too large."""
    seen.batches += 1
    for name, values in expected.items():
        if name not in found or found[name].shape != values.shape:
            shape = found[name].shape if name in found else "missing"
            raise Differs(f"{where}: {name} is {shape}, wanted {values.shape}")
    if "logits" in expected:
        _compare_numbers(expected["logits"], found["logits"], seen, where, "logits")
        return
    for image in range(len(expected["labels"])):
        mine, other = (
            {
                name: values[image][side["labels"][image] >= 0]
                for name, values in side.items()
                if name in expected
            }
            for side in (expected, found)
        )
        match_detections(mine, other, seen, f"{where}, image {image + 1}", most=expected["labels"].shape[1])


def compare_results(expected: Any, found: Any, seen: Differences, where: str) -> None:
    """The same for what is said of one picture."""
    seen.batches += 1
    if hasattr(expected, "class_map"):
        equal = float((expected.class_map == found.class_map).mean())
        seen.logit = max(seen.logit, 1 - equal)
        if equal < EQUAL_PIXELS:
            raise Differs(f"{where}: {1 - equal:.2%} of the pixels have another class")
    elif hasattr(expected, "probabilities"):
        mine, other = (x.probabilities[np.argsort(x.labels)] for x in (expected, found))
        _compare_numbers(mine, other, seen, where, "probabilities")
    else:
        mine, other = (
            {name: getattr(x, name) for name in ("boxes", "scores", "labels")} for x in (expected, found)
        )
        order = match_detections(mine, other, seen, where, most=len(expected))
        if hasattr(expected, "bitmaps"):
            for row, place in order:
                overlap = _mask_overlap(expected, row, found, place)
                seen.mask = max(seen.mask, 1 - overlap)
                if overlap < MASK_IOU:
                    raise Differs(f"{where}: the masks of a detection overlap by {overlap:.3f} alone")


def match_detections(
    expected: Arrays, found: Arrays, seen: Differences, where: str, most: int
) -> list[tuple[int, int]]:
    """Pairs of rows of the same detections; `most` are the rows that there can be. Raises `Differs`."""
    pairs: list[tuple[int, int]] = []
    free = np.ones(len(found["labels"]), bool)
    cut = len(expected["labels"]) >= most or len(found["labels"]) >= most
    # At the cut one of equal scores stays and another goes.
    lowest = min(expected["scores"].min(initial=1), found["scores"].min(initial=1)) + SCORE if cut else 0
    for row, (box, score, label) in enumerate(
        zip(expected["boxes"], expected["scores"], expected["labels"], strict=True)
    ):
        alike = np.flatnonzero(free & (found["labels"] == label))
        overlap, shift = _overlaps(box, found["boxes"][alike])
        good = (overlap >= IOU) | (shift <= PIXELS)
        near = np.abs(found["scores"][alike] - score)
        if not (good & (near <= SCORE)).any():
            if score <= lowest:
                continue
            raise Differs(
                f"{where}: the detection with label {label}, score {score:.5f} and box {np.round(box, 2).tolist()} is "
                f"not in the file's result (the nearest box of its class overlaps it by {overlap.max(initial=0):.5f})"
            )
        best = int(np.argmin(np.where(good, near, np.inf)))
        other = int(alike[best])
        free[other] = False
        seen.score = max(seen.score, float(near[best]))
        if shift[best] > PIXELS:
            seen.iou = min(seen.iou, float(overlap[best]))
        seen.detections += 1
        pairs.append((row, other))
        if "masks" in expected:
            difference = float(np.abs(expected["masks"][row] - found["masks"][other]).max())
            seen.mask = max(seen.mask, difference)
            if difference > MASK:
                raise Differs(f"{where}: the mask of a detection differs by {difference:.1e}")
    extra = free & (found["scores"] > lowest)
    if extra.any():
        raise Differs(f"{where}: the file finds {int(extra.sum())} detections that the model does not")
    return pairs


def _compare_numbers(
    expected: np.ndarray, found: np.ndarray, seen: Differences, where: str, what: str
) -> None:
    difference = float(np.abs(expected - found).max(initial=0))
    seen.logit = max(seen.logit, difference)
    if not difference <= LOGIT * max(1.0, float(np.abs(expected).max(initial=0))):
        raise Differs(f"{where}: {what} differ by {difference:.1e}")


def _overlaps(box: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU of a box with each of `boxes` (N, 4), and how far the farthest of its sides is from theirs."""
    sides = np.minimum(box[2:], boxes[:, 2:]) - np.maximum(box[:2], boxes[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - shared
    return shared / np.maximum(union, 1e-12), np.abs(box - boxes).max(axis=1, initial=0)


def _mask_overlap(expected: Any, row: int, found: Any, other: int) -> float:
    masks = []
    for result, i in ((expected, row), (found, other)):
        left, top, bitmap = result.bitmaps[i]
        mask = np.zeros(result.size, bool)
        mask[top : top + bitmap.shape[0], left : left + bitmap.shape[1]] = bitmap
        masks.append(mask)
    union = (masks[0] | masks[1]).sum()
    differing = int((masks[0] ^ masks[1]).sum())
    return 1.0 if differing <= 2 else 1 - differing / int(union)


def check_pixels(
    network: NetworkGraph, run: Callable[[Arrays], Arrays], pictures: Sequence[np.ndarray]
) -> Differences:
    """Compares what the model finds in pictures with what a file finds that takes them, one to three of a size at a
    time. Raises `Differs`."""
    seen = Differences()
    for number, picture in enumerate(pictures):
        images = [picture, picture[::-1].copy(), picture[:, ::-1].copy()][: number % 3 + 1]
        batch = batch_images(images, network.model.preprocessing)
        with torch.inference_mode():
            found = network.model(batch)
        if hasattr(found, "to_original"):
            found = found.to_original(batch.sizes, batch.original_sizes)
        expected = {name: value.numpy() for name, value in outputs_of(found).items()}
        where = f"{len(images)} pictures of {picture.shape[:2]}"
        compare(expected, run({"pictures": np.stack(images)}), seen, where)
    return seen
