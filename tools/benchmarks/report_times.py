"""How long intervals and the report of a large evaluation take, on simulated detections.

python tools/benchmarks/report_times.py --images 5000 --classes 80 --detections 100

Seconds, and CPU seconds, of matching, of 1,000 resamples of the images, and of the page without pictures.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # this checkout's code, installed or not

from tasks.data.annotations.objects import Annotations
from tasks.data.splits import Split
from tasks.metrics.average_precision import Predictions
from tasks.metrics.bootstrap import RESAMPLES, intervals
from tasks.metrics.coco import CocoMetric
from tasks.metrics.outcomes import ObjectOutcomes
from tasks.report.build import Findings, write_report
from tasks.report.results import object_results


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--detections", type=int, default=100, help="of each image")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    annotations = simulated_annotations(rng, arguments.images, arguments.classes)
    metric = CocoMetric(annotations)
    truth, _ = metric.truths()
    found = simulated_predictions(rng, annotations, arguments.detections)
    with timed(f"matching {len(found.scores):,} detections with {len(truth.images):,} objects"):
        results = object_results(metric, truth, found)
    outcomes = ObjectOutcomes({"": results.matches}, results.class_names, metric.max_detections)
    with timed(f"{RESAMPLES:,} resamples of {arguments.images:,} images and {arguments.classes} classes"):
        ends = intervals(outcomes)
    values = outcomes.weighted(np.ones((1, arguments.images), np.int32))
    numbers = {name: float(value[0]) for name, value in values.items()}
    findings = Findings("A simulated detector", "val", numbers, ends, Split(annotations), objects=[results])
    with tempfile.TemporaryDirectory() as folder, timed("the page, without pictures"):
        write_report(Path(folder), findings, num_pictures=0)


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Prints how long the block takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    print(f"{what}: {time.perf_counter() - wall:.1f} s, CPU {time.process_time() - cpu:.1f} s", flush=True)


def simulated_annotations(rng: np.random.Generator, num_images: int, num_classes: int) -> Annotations:
    """As many objects an image as COCO has, 7.3 on average; classes as frequent as words are."""
    counts = rng.poisson(7.3, num_images)
    total = int(counts.sum())
    sides = np.exp(rng.uniform(2, 5.5, (total, 2)))
    boxes = np.concatenate([rng.uniform(0, 400, (total, 2)), sides], axis=1)
    return Annotations(
        class_names=[f"class {k}" for k in range(num_classes)],
        category_ids=np.arange(num_classes),
        image_ids=np.arange(num_images),
        file_names=np.array([f"{i:06d}.jpg".encode() for i in range(num_images)]),
        sizes=np.full((num_images, 2), 640, np.int32),
        offsets=np.concatenate([[0], np.cumsum(counts)]),
        ids=np.arange(1, total + 1),
        labels=rng.choice(num_classes, total, p=frequencies(num_classes)),
        boxes=boxes,
        areas=0.6 * sides.prod(axis=1),
        is_crowd=rng.random(total) < 0.01,
    )


def simulated_predictions(rng: np.random.Generator, truth: Annotations, number: int) -> Predictions:
    """Three near each object, and false ones up to `number` an image."""
    near = np.repeat(np.arange(len(truth.labels)), 3)
    images = np.repeat(np.arange(len(truth)), np.diff(truth.offsets))
    boxes = truth.boxes[near] + rng.normal(0, 0.1, (len(near), 4)) * truth.boxes[near][:, [2, 3, 2, 3]]
    boxes[:, 2:] = boxes[:, 2:].clip(1)
    false = max(0, len(truth) * number - len(near))
    sides = np.exp(rng.uniform(2, 5.5, (false, 2)))
    num_classes = len(truth.class_names)
    columns = [
        np.concatenate(parts)
        for parts in (
            (images[near], rng.integers(0, len(truth), false)),
            (truth.labels[near], rng.choice(num_classes, false, p=frequencies(num_classes))),
            (boxes, np.concatenate([rng.uniform(0, 400, (false, 2)), sides], axis=1)),
            (rng.beta(3, 2, len(near)), rng.beta(1, 5, false)),
        )
    ]
    order = np.argsort(columns[0], kind="stable")
    return Predictions(*(column[order] for column in columns))


def frequencies(num_classes: int) -> np.ndarray:
    """(K,): shares of the classes, after Zipf."""
    shares = 1 / np.arange(1, num_classes + 1)
    return shares / shares.sum()


if __name__ == "__main__":
    main()
