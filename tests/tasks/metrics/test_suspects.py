"""Labels corrupted in four ways, which a model that knows better must find."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from simulated_detector import simulated_detections, simulated_truth

from tasks.metrics.average_precision import GroundTruth, Predictions
from tasks.metrics.suspects import WAYS, find_suspects

SHARE = 0.05


def kept(truth: GroundTruth, rows: np.ndarray, **changes) -> GroundTruth:
    columns = {
        name: getattr(truth, name)[rows]
        for name in ("images", "categories", "boxes", "areas", "is_crowd", "ids")
    }
    return replace(truth, **{**columns, **changes})


def corrupted(truth: GroundTruth, way: str, rng: np.random.Generator) -> tuple[GroundTruth, np.ndarray]:
    """The annotations with 5 % of them wrong, and which are; of missing ones the boxes (n, 5) with their image."""
    num = len(truth.images)
    chosen = np.sort(rng.permutation(num)[: int(SHARE * num)])
    everything = np.arange(num)
    if way == "missing":
        gone = np.concatenate([truth.images[chosen, None], truth.boxes[chosen]], axis=1)
        return kept(truth, np.delete(everything, chosen)), gone
    if way == "spurious":
        more = np.concatenate([everything, chosen])
        boxes = truth.boxes[more].copy()
        boxes[num:, 1] += 600
        order = np.argsort(truth.images[more], kind="stable")
        made = kept(truth, more[order], boxes=boxes[order], ids=np.arange(1, len(more) + 1))
        return made, np.flatnonzero(order >= num)
    if way == "class":
        categories = truth.categories.copy()
        categories[chosen] = (categories[chosen] + 1) % truth.num_categories
        return replace(truth, categories=categories), chosen
    boxes = truth.boxes.copy()
    boxes[chosen, 1] += 0.5 * boxes[chosen, 3]
    return replace(truth, boxes=boxes), chosen


@pytest.mark.parametrize("way", WAYS)
def test_the_first_hundred_suspects_hold_many_times_what_chance_would(way: str) -> None:
    rng = np.random.default_rng(7)
    truth = simulated_truth(rng, 800, 3)
    found = simulated_detections(rng, truth, skill=1.0)
    data, wrong = corrupted(truth, way, rng)
    first = find_suspects(data, found)[:100]
    if way == "missing":
        hits = 0
        for suspect in first:
            if suspect.object < 0:
                box = found.boxes[suspect.detection]
                same = wrong[:, 0] == suspect.image
                hits += bool((np.abs(wrong[same, 1:3] - box[:2]).max(axis=1, initial=0) < 40).any())
    else:
        hits = sum(suspect.object in set(wrong.tolist()) for suspect in first)
    assert hits / len(first) >= 5 * SHARE, hits
    named = [s.way for s in first if way == "missing" or s.object in set(np.asarray(wrong).ravel().tolist())]
    assert max(set(named), key=named.count) == way


def test_each_annotation_is_listed_once_and_nothing_is_no_error() -> None:
    rng = np.random.default_rng(0)
    truth = simulated_truth(rng, 20)
    found = simulated_detections(rng, truth)
    suspects = find_suspects(truth, found)
    rows = [s.object for s in suspects if s.object >= 0]
    assert sorted(rows) == list(range(len(truth.images)))
    assert [s.doubt for s in suspects] == sorted((s.doubt for s in suspects), reverse=True)
    none = Predictions(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    assert {s.way for s in find_suspects(truth, none)} == {"spurious"}
    perfect = Predictions(truth.images, truth.categories, truth.boxes, np.ones(len(truth.images)))
    assert max(s.doubt for s in find_suspects(truth, perfect)) == 0
