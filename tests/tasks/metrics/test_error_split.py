"""Planted errors of each kind, which the split must name and cost exactly."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from simulated_detector import simulated_detections, simulated_truth

from tasks.metrics.average_precision import GroundTruth, Predictions, RunLengths
from tasks.metrics.error_split import FOUND, KINDS, MENDABLE, MISSED, ErrorSplit, error_split
from tasks.metrics.matches import match

NUM = 20
"""Objects, of two classes in turn, one an image."""


def truth() -> GroundTruth:
    boxes = np.tile([100.0, 100.0, 40.0, 40.0], (NUM, 1))
    return GroundTruth(
        NUM, 2, np.arange(NUM), np.arange(NUM) % 2, boxes, np.full(NUM, 1600.0), np.zeros(NUM, bool),
        np.arange(1, NUM + 1),
    )  # fmt: skip


SHIFTED = (12.0, 12.0)  # IoU 28 * 28 / (2 * 1600 - 784) = 0.32
FAR = (300.0, 0.0)


def split(
    changes: dict[int, tuple[tuple[float, float], int, float]], extra: list | None = None
) -> ErrorSplit:
    """Every object found at score 0.9, but image i as `changes` has it: (shift, other class, score) or None; `extra`
    are further detections (image, shift, other class, score)."""
    rows = []
    for i in range(NUM):
        change = changes.get(i, ((0.0, 0.0), 0, 0.9))
        if change is not None:
            rows.append((i, *change))
    rows += extra or []
    rows.sort(key=lambda row: row[0])
    found = Predictions(
        np.array([i for i, *_ in rows]),
        np.array([(i + other) % 2 for i, _, other, _ in rows]),
        np.array([[100 + dx, 100 + dy, 40, 40] for _, (dx, dy), *_ in rows], float),
        np.array([score for *_, score in rows]),
    )
    return error_split(truth(), found, match(truth(), found))


PLANTED = {
    "class": lambda i: {"changes": {i: ((0.0, 0.0), 1, 0.95)}},
    "localisation": lambda i: {"changes": {i: (SHIFTED, 0, 0.95)}},
    "both": lambda i: {"changes": {}, "extra": [(i, SHIFTED, 1, 0.95)]},
    "duplicate": lambda i: {"changes": {}, "extra": [(i, (1.0, 0.0), 0, 0.95)]},
    "background": lambda i: {"changes": {}, "extra": [(i, FAR, 0, 0.95)]},
    "missed": lambda i: {"changes": {i: None}},
}


@pytest.mark.parametrize("kind", PLANTED)
def test_one_planted_error_is_named_and_costs_all_that_ap_lacks(kind: str) -> None:
    found = split(**PLANTED[kind](4))
    assert {name: n for name, n in found.counts.items() if n and not name.startswith("false")} == {kind: 1}
    assert found.ap50 < 1
    assert found.costs[kind] == pytest.approx(1 - found.ap50)
    others = [name for name in (*KINDS, "missed") if name != kind]
    assert [found.costs[name] for name in others] == pytest.approx([0] * len(others))
    state = {"class": MENDABLE, "localisation": MENDABLE, "missed": MISSED}.get(kind, FOUND)
    assert found.objects[4] == state and (np.delete(found.objects, 4) == FOUND).all()


def test_errors_of_every_kind_at_once() -> None:
    changes, extra = {}, []
    for place, kind in enumerate(PLANTED):
        planted = PLANTED[kind](3 * place)
        changes |= planted["changes"]
        extra += planted.get("extra", [])
    found = split(changes, extra)
    assert {name: found.counts[name] for name in PLANTED} == dict.fromkeys(PLANTED, 1)
    assert found.counts["false positives"] == 5 and found.counts["false negatives"] == 3
    # The two oracles together leave nothing.
    assert all(found.costs[name] > 0 for name in PLANTED)
    assert (
        found.costs["false positives"] <= 1 - found.ap50 and found.costs["false negatives"] <= 1 - found.ap50
    )


def test_only_the_best_of_several_mends_an_object() -> None:
    found = split({4: (SHIFTED, 0, 0.95)}, [(4, (0.0, 12.0 + 3), 0, 0.5)])  # IoU 0.45
    assert found.counts["localisation"] == 2
    assert found.costs["localisation"] == pytest.approx(1 - found.ap50)


def test_crowds_and_empty_sets() -> None:
    nothing = Predictions(np.zeros(0, int), np.zeros(0, int), np.zeros((0, 4)), np.zeros(0))
    found = error_split(truth(), nothing, match(truth(), nothing))
    assert found.ap50 == 0 and found.counts["missed"] == NUM and not found.counts["background"]
    assert found.costs["missed"] == 1
    none = np.zeros(0, int)
    empty = GroundTruth(3, 2, none, none, np.zeros((0, 4)), np.zeros(0), none > 0, none)
    assert np.isnan(error_split(empty, nothing, match(empty, nothing)).ap50)


def test_ap_and_costs_are_those_of_hotcoco() -> None:
    hotcoco = pytest.importorskip("hotcoco")
    rng = np.random.default_rng(5)
    objects = simulated_truth(rng, 120, 3)
    found = simulated_detections(rng, objects)
    wrong = rng.random(len(found.categories)) < 0.1
    found.categories[wrong] = (found.categories[wrong] + 1) % 3
    ours = error_split(objects, found, match(objects, found))
    images = [{"id": i} for i in range(120)]
    data = hotcoco.COCO.from_arrays(
        images, [{"id": k, "name": str(k)} for k in range(3)], objects.images, objects.categories, objects.boxes,
        ids=objects.ids, area=objects.areas, iscrowd=objects.is_crowd,
    )  # fmt: skip
    rows = np.column_stack([found.images, found.boxes, found.scores, found.categories])
    evaluation = hotcoco.COCOeval(data, data.load_res(rows), "bbox")
    evaluation.evaluate()
    theirs = evaluation.tide_errors()
    assert ours.ap50 == pytest.approx(theirs["ap_base"], abs=1e-9)
    names = {"class": "Cls", "localisation": "Loc", "both": "Both", "duplicate": "Dupe", "background": "Bkg"}
    names["missed"] = "Miss"
    assert {ours_: ours.counts[ours_] for ours_ in names} == {
        o: theirs["counts"][t] for o, t in names.items()
    }
    for ours_name, name in names.items():
        assert ours.costs[ours_name] == pytest.approx(theirs["delta_ap"][name], abs=1e-3), ours_name
    assert ours.costs["false positives"] == pytest.approx(theirs["delta_ap"]["FP"], abs=1e-9)


def test_masks_of_an_image_in_which_nothing_was_found() -> None:
    """The errors of masks are those of boxes where masks are the boxes."""
    from pycocotools import mask as coco_mask

    with_boxes = truth()
    outline = [[100.0, 100.0, 140.0, 100.0, 140.0, 140.0, 100.0, 140.0]]
    with_masks = replace(with_boxes, sizes=np.full((NUM, 2), 480), masks=[outline] * NUM)
    places = np.arange(NUM)[:-1]  # nothing on the last image
    found = Predictions(
        places, (places + (places == 3)) % 2, with_boxes.boxes[:-1], np.linspace(0.9, 0.5, NUM - 1)
    )
    counts = coco_mask.merge(coco_mask.frPyObjects(outline, 480, 480))["counts"]
    runs = RunLengths(np.array([counts] * (NUM - 1), object), places, [[480, 480]] * NUM)
    masked = replace(found, masks=runs)
    of_boxes = error_split(with_boxes, found, match(with_boxes, found))
    of_masks = error_split(with_masks, masked, match(with_masks, masked))
    assert of_masks.counts == of_boxes.counts and of_masks.counts["class"] == 1
    assert of_masks.counts["missed"] == 1 and of_masks.costs == of_boxes.costs
