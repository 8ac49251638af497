"""What a model did on each image of a data set, to make its numbers for any weighting of the images, and as a file.

Two models are compared on the same resamples of the same images by their files alone, without data or weights.

Legend:
    W  weightings        I  images        K  classes
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tasks.files import write_whole
from tasks.metrics.matches import AREA_RANGES, IOU_THRESHOLDS, Matches
from tasks.metrics.weighted_precision import LIMITS, weighted_precision

FILE = "outcomes.npz"
AREAS = ("all", "small", "medium", "large")
"""COCO's: below 32², up to 96², above, in square pixels."""
_BITS = ("is_true", "is_ignored", "object_is_ignored")
_COLUMNS = ("images", "categories", "scores", "ranks", "object_images", "object_categories")
"""Fields of `Matches` that a file holds."""
_FORMAT = 1


@dataclass(frozen=True)
class ObjectOutcomes:
    """Of objects: matches of boxes under "", and of masks under "mask_"."""

    matches: Mapping[str, Matches]
    class_names: Sequence[str]
    """(K,) in order of the categories of `matches`."""
    limits: tuple[int, ...] = LIMITS

    @property
    def num_images(self) -> int:
        """I."""
        return next(iter(self.matches.values())).num_images

    def weighted(self, weights: np.ndarray, *, threads: int = 1) -> dict[str, np.ndarray]:
        """`CocoMetric`'s numbers, each (W,), for each of `weights` (W, I)."""
        numbers: dict[str, np.ndarray] = {}
        for prefix, matches in self.matches.items():
            found = weighted_precision(matches, weights, self.limits, threads=threads)
            own = {"AP": _mean(found.precision[:, 0]), "AP50": _mean(found.precision[:, 0, :1])}
            own["AP75"] = _mean(found.precision[:, 0, 5:6])
            own |= {f"AP_{AREAS[a]}": _mean(found.precision[:, a]) for a in (1, 2, 3)}
            own |= {f"AR_{limit}": _mean(found.recall_at[:, i]) for i, limit in enumerate(self.limits)}
            own |= {f"AR_{AREAS[a]}": _mean(found.recall[:, a]) for a in (1, 2, 3)}
            for k, name in enumerate(self.class_names):
                own[f"AP/{name}"] = _mean(found.precision[:, 0, :, k : k + 1])
            numbers |= {f"{prefix}{name}": values for name, values in own.items()}
        return numbers

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it but which object each detection found."""
        values: dict[str, np.ndarray] = {"limits": np.array(self.limits)}
        for prefix, matches in self.matches.items():
            values |= {f"{prefix}{name}": np.packbits(getattr(matches, name)) for name in _BITS}
            values |= {f"{prefix}{name}": getattr(matches, name) for name in _COLUMNS}
        return values

    @classmethod
    def of_arrays(cls, values: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> "ObjectOutcomes":
        """What `arrays` gave."""
        found = {}
        for prefix in ("", "mask_"):
            if f"{prefix}images" not in values:
                continue
            columns = {name: values[f"{prefix}{name}"] for name in _COLUMNS}
            shape = (len(AREA_RANGES), len(IOU_THRESHOLDS), len(columns["images"]))
            shapes = shape, shape, (shape[0], len(columns["object_images"]))
            bits = {n: _unpacked(values[f"{prefix}{n}"], s) for n, s in zip(_BITS, shapes, strict=True)}
            found[prefix] = Matches(
                num_images=int(header["num_images"]),
                num_categories=len(header["class_names"]),
                rows=np.arange(shape[2]),
                objects=np.full((len(IOU_THRESHOLDS), 0), -1, np.int32),
                **bits,
                **columns,
            )
        return cls(found, header["class_names"], tuple(values["limits"].tolist()))

    def truth(self) -> tuple[np.ndarray, ...]:
        """What the data says, to tell whether two models were scored on the same."""
        first = next(iter(self.matches.values()))
        return first.object_images, first.object_categories, first.object_is_ignored


@dataclass(frozen=True)
class LabelOutcomes:
    """Of whole images: their class, and the model's best classes."""

    labels: np.ndarray
    """(I,) int64 in 0 … K-1."""
    best: np.ndarray
    """(I, 5) int64, the best first; as many as there are classes where those are fewer."""
    confidences: np.ndarray
    """(I,) float32: probability of the best."""
    class_names: Sequence[str]
    """(K,)."""

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.labels)

    def weighted(self, weights: np.ndarray, *, threads: int = 1) -> dict[str, np.ndarray]:
        """`AccuracyMetric`'s numbers, each (W,), for each of `weights` (W, I)."""
        order = np.argsort(self.labels, kind="stable")
        is_right = (self.best[:, 0] == self.labels)[order]
        starts = np.searchsorted(self.labels[order], np.arange(len(self.class_names)))
        sizes = np.diff(np.append(starts, len(order)))
        right, every, top5 = [], [], []
        for some in np.array_split(weights, max(1, weights.size // 2**24)):
            ordered = some[:, order].astype(np.int64)
            every.append(_sums(ordered, starts, sizes))
            right.append(_sums(ordered * is_right, starts, sizes))
            top5.append(some @ (self.best == self.labels[:, None]).any(axis=1).astype(np.float64))
        right_of, all_of = np.concatenate(right), np.concatenate(every)
        totals = all_of.sum(axis=1)
        by_class = shares(right_of, all_of)
        numbers = {
            "top1": shares(right_of.sum(axis=1), totals),
            "top5": shares(np.concatenate(top5), totals),
            "mean_class_accuracy": _mean(by_class),
        }
        return numbers | {f"accuracy/{name}": by_class[:, k] for k, name in enumerate(self.class_names)}

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it."""
        return {"labels": self.labels, "best": self.best, "confidences": self.confidences}

    @classmethod
    def of_arrays(cls, values: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> "LabelOutcomes":
        """What `arrays` gave."""
        return cls(values["labels"], values["best"], values["confidences"], header["class_names"])

    def truth(self) -> tuple[np.ndarray, ...]:
        """What the data says."""
        return (self.labels,)


@dataclass(frozen=True)
class PixelOutcomes:
    """Of class maps: pixels of each class by image."""

    right: np.ndarray
    """(I, K) int64: pixels truly of the class that are taken for it."""
    true: np.ndarray
    """(I, K) int64: pixels truly of the class."""
    found: np.ndarray
    """(I, K) int64: pixels taken for the class, without those whose class nobody knows."""
    class_names: Sequence[str]
    """(K,)."""

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.right)

    def weighted(self, weights: np.ndarray, *, threads: int = 1) -> dict[str, np.ndarray]:
        """`IoUMetric`'s numbers, each (W,), for each of `weights` (W, I)."""
        real = weights.astype(np.float64)  # whole numbers below 2**53 stay exact
        right, true, found = (
            real @ values.astype(np.float64) for values in (self.right, self.true, self.found)
        )
        by_class = shares(right, true + found - right)
        numbers = {
            "mean_iou": _mean(by_class),
            "pixel_accuracy": shares(right.sum(axis=1), true.sum(axis=1)),
        }
        return numbers | {f"iou/{name}": by_class[:, k] for k, name in enumerate(self.class_names)}

    def arrays(self) -> dict[str, np.ndarray]:
        """All of it."""
        return {"right": self.right, "true": self.true, "found": self.found}

    @classmethod
    def of_arrays(cls, values: Mapping[str, np.ndarray], header: Mapping[str, Any]) -> "PixelOutcomes":
        """What `arrays` gave."""
        return cls(values["right"], values["true"], values["found"], header["class_names"])

    def truth(self) -> tuple[np.ndarray, ...]:
        """What the data says."""
        return (self.true,)


KINDS = {"objects": ObjectOutcomes, "labels": LabelOutcomes, "pixels": PixelOutcomes}
AnyOutcomes = ObjectOutcomes | LabelOutcomes | PixelOutcomes


@dataclass(frozen=True)
class Scored:
    """The outcomes in a file, and of what they are."""

    outcomes: AnyOutcomes
    image_ids: np.ndarray
    """(I,) int64, in the order of the outcomes."""
    data: str
    """Fingerprint of the annotations that were scored against."""
    split: str
    """Name of the split."""
    folder: Path = field(default=Path())
    """Where the file lies."""


def write_outcomes(
    folder: Path, outcomes: AnyOutcomes, image_ids: np.ndarray, *, data: str, split: str
) -> None:
    """Writes `outcomes.npz`, whole or not at all: plain arrays, and a header as JSON."""
    kind = next(name for name, known in KINDS.items() if isinstance(outcomes, known))
    header = {
        "format": _FORMAT,
        "kind": kind,
        "num_images": outcomes.num_images,
        "class_names": list(outcomes.class_names),
        "data": data,
        "split": split,
    }
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with write_whole(folder / FILE) as partial, open(partial, "wb") as file:
        np.savez_compressed(file, header=text, image_ids=image_ids, **outcomes.arrays())  # type: ignore[arg-type]


def read_outcomes(folder: Path) -> Scored:
    """What `write_outcomes` left in `folder`.

    Raises:
        ValueError: there is no such file, or it is damaged; it says what to do.
    """
    path = folder / FILE
    if not path.is_file():
        raise ValueError(
            f"{folder} has no {FILE}, which training and evaluation leave; `vertebra report {folder}` makes it anew "
            "where the run is an earlier one"
        )
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as stored:
            values = {name: stored[name] for name in stored.files}
        header = json.loads(values.pop("header").tobytes())
        if header["format"] != _FORMAT:
            raise ValueError(f"format {header['format']!r:.20} is not {_FORMAT}")
        outcomes = KINDS[header["kind"]].of_arrays(values, header)
        return Scored(outcomes, values["image_ids"], str(header["data"]), str(header["split"]), folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read ({error!s:.150}); `vertebra report {folder}` makes it anew"
        ) from error


def _unpacked(bits: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    if len(bits) != -(-size // 8):
        raise ValueError("its arrays are not of one size")
    return np.unpackbits(bits, count=size).reshape(shape).astype(bool)


def _mean(values: np.ndarray) -> np.ndarray:
    """(W,): over all axes but the first, without nan; nan where there is nothing else."""
    flat = values.reshape(len(values), -1)
    known = ~np.isnan(flat)
    return shares(np.where(known, flat, 0).sum(axis=1), known.sum(axis=1))


def shares(parts: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """`parts` / `totals` as float64, nan where there is nothing to share."""
    parts = np.asarray(parts, np.float64)
    return np.divide(parts, totals, out=np.full(parts.shape, np.nan), where=np.asarray(totals) > 0)


def mean_of_known(values: np.ndarray) -> float:
    """The mean without nan; nan when there is no other."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def _sums(values: np.ndarray, starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """(W, K): sums of runs of columns, 0 for an empty one."""
    padded = np.append(values, np.zeros((len(values), 1), values.dtype), axis=1)
    return np.where(sizes > 0, np.add.reduceat(padded, starts, axis=1), 0)
