"""Data sets and detectors of which the true numbers are known: drawn from one distribution, as large as wanted."""

import numpy as np

from tasks.metrics.average_precision import GroundTruth, Predictions


def simulated_truth(rng: np.random.Generator, num_images: int, num_classes: int = 2) -> GroundTruth:
    """Images that differ in how many objects they have; objects lie on a grid, so that none overlap."""
    counts = rng.integers(1, 7, num_images)
    images = np.repeat(np.arange(num_images), counts)
    places = np.concatenate([np.arange(count) for count in counts])
    boxes = np.stack([120.0 * places, np.zeros(len(places)), *rng.uniform(40, 100, (2, len(places)))], axis=1)
    return GroundTruth(
        num_images=num_images,
        num_categories=num_classes,
        images=images,
        categories=rng.integers(0, num_classes, len(images)),
        boxes=boxes,
        areas=boxes[:, 2] * boxes[:, 3],
        is_crowd=np.zeros(len(images), bool),
        ids=np.arange(1, len(images) + 1),
    )


def simulated_detections(rng: np.random.Generator, truth: GroundTruth, skill: float = 0.0) -> Predictions:
    """Some objects are missed, boxes are off by a share of their size, and there are false ones; images are of
    different difficulty."""
    difficulty = rng.normal(0, 0.6, truth.num_images)
    strength = 1.0 + skill - difficulty[truth.images] + rng.normal(0, 1, len(truth.images))
    found = np.flatnonzero(strength > -0.5)
    boxes = truth.boxes[found].copy()
    spread = 0.04 + 0.05 * rng.random(len(found))[:, None]
    boxes += rng.normal(0, 1, boxes.shape) * spread * boxes[:, [2, 3, 2, 3]]
    false = rng.poisson(1.0 * np.exp(0.5 * difficulty))
    false_images = np.repeat(np.arange(truth.num_images), false)
    false_boxes = np.stack(
        [
            rng.uniform(0, 800, len(false_images)),
            np.full(len(false_images), 300.0),
            *rng.uniform(40, 100, (2, len(false_images))),
        ],
        axis=1,
    )
    images = np.concatenate([truth.images[found], false_images])
    order = np.argsort(images, kind="stable")
    scores = 1 / (1 + np.exp(-np.concatenate([strength[found], rng.normal(-0.7, 1, len(false_images))])))
    categories = np.concatenate(
        [truth.categories[found], rng.integers(0, truth.num_categories, len(false_images))]
    )
    return Predictions(
        images[order], categories[order], np.concatenate([boxes, false_boxes])[order], scores[order]
    )
