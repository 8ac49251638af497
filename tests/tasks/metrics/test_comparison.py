"""Whether two models differ, on the same images."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from simulated_detector import simulated_detections, simulated_truth

from tasks.metrics.comparison import Difference, compare, verdict
from tasks.metrics.matches import match
from tasks.metrics.outcomes import LabelOutcomes, ObjectOutcomes, Scored


def scored(num_images: int, data_seed: int, seed: int, skill: float = 0.0) -> Scored:
    truth = simulated_truth(np.random.default_rng(data_seed), num_images)
    found = simulated_detections(np.random.default_rng((data_seed, seed)), truth, skill)
    outcomes = ObjectOutcomes({"": match(truth, found)}, ["a", "b"])
    return Scored(outcomes, np.arange(num_images), "data", "val", Path(f"run-{seed}"))


@pytest.mark.slow
def test_two_seeds_of_one_recipe_are_rarely_called_different() -> None:
    found = [
        compare([scored(60, n, 1)], [scored(60, n, 2)], resamples=300, seed=n)["AP"].is_clear
        for n in range(100)
    ]
    assert sum(found) <= 5


def test_a_better_model_is_found_and_the_same_one_is_not() -> None:
    found = compare([scored(80, 0, 1)], [scored(80, 0, 2, skill=1.5)], resamples=300)["AP"]
    assert found.is_clear and found.value > 0
    assert "B is better by" in verdict("AP", found, "A", "B")
    back = compare([scored(80, 0, 2, skill=1.5)], [scored(80, 0, 1)], resamples=300)["AP"]
    assert verdict("AP", back, "B", "A").split(": ")[1] == verdict("AP", found, "A", "B").split(": ")[1]
    same = compare([scored(80, 0, 1)], [scored(80, 0, 1)], resamples=300)["AP"]
    assert same.value == 0 and same.ends == (0, 0) and not same.is_clear
    assert "cannot be told apart with 80 images" in verdict("AP", same, "A", "A")


def test_images_needed_grow_with_the_square_of_the_width() -> None:
    difference = Difference(0.5, 0.51, (-0.01, 0.03), 100)  # half its width is twice the difference
    assert difference.images_needed == 400
    assert verdict("AP", difference, "A", "B").endswith("about 400 would be needed")


def test_several_seeds_are_averaged_and_widen_the_interval() -> None:
    one = compare([scored(80, 0, 1)], [scored(80, 0, 2)], resamples=300)["AP"]
    joined = compare(
        [scored(80, 0, 1), scored(80, 0, 3)], [scored(80, 0, 2), scored(80, 0, 4)], resamples=300
    )
    others = compare([scored(80, 0, 3)], [scored(80, 0, 4)], resamples=300)["AP"]
    assert joined["AP"].first == pytest.approx((one.first + others.first) / 2)
    assert joined["AP"].value == pytest.approx((one.value + others.value) / 2)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"split": "test"}, "one was scored on val, the other on test"),
        ({"image_ids": np.arange(1, 31)}, "one was scored on 30 images, the other on 30, not all the same"),
        (
            {"outcomes": LabelOutcomes(np.zeros(30, int), np.zeros((30, 1), int), np.ones(30), ["a", "b"])},
            "one finds objects, the other does another task",
        ),
    ],
)
def test_other_data_is_refused(change: dict, why: str) -> None:
    one = scored(30, 0, 1)
    with pytest.raises(ValueError, match=f"cannot be compared: {why}; evaluate both"):
        compare([one], [replace(one, **change)], resamples=10)
    with pytest.raises(ValueError, match="their annotations differ"):
        compare([one], [scored(30, 1, 1)], resamples=10)
