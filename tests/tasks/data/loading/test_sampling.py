"""How often images are read, in which batches, and that ranks and resumed epochs agree on it."""

from typing import Any

import numpy as np
import pytest

from tasks.cli.compose import compose
from tasks.data.datamodule import DataModule
from tasks.data.formats.digits import DigitsData, SingleDigitsData
from tasks.data.loading.samplers import (
    EpochSampler,
    by_shape,
    class_balanced,
    classes_of_images,
    drawn,
    repeat_factors,
    with_empty_share,
)
from tasks.preprocessing import Preprocessing

# Eight images; class 0 in all but the last, class 1 in two, class 2 in one, class 3 in none.
IMAGES = np.array([0, 1, 2, 3, 4, 5, 6, 0, 1, 1])
LABELS = np.array([0, 0, 0, 0, 0, 0, 0, 1, 1, 2])


def test_repeat_factors_by_hand() -> None:
    factors = repeat_factors(IMAGES, LABELS, 8, 4, threshold=0.5)
    # f = 7/8, 2/8, 1/8: r = 1, sqrt(0.5 / 0.25) = 1.4142, sqrt(0.5 / 0.125) = 2; an image has its largest.
    np.testing.assert_allclose(factors, [2**0.5, 2, 1, 1, 1, 1, 1, 1], rtol=1e-12)
    assert repeat_factors(IMAGES, LABELS, 8, 4, threshold=0.1).tolist() == [1] * 8
    np.testing.assert_allclose(repeat_factors(IMAGES, LABELS, 8, 4, threshold=2)[6], (2 / (7 / 8)) ** 0.5)
    assert repeat_factors(IMAGES[:0], LABELS[:0], 3, 4, threshold=1).tolist() == [1, 1, 1]


def test_class_balanced_by_hand() -> None:
    factors = class_balanced(IMAGES, LABELS, 8, 4)
    # Three classes, seven images with objects: each class is drawn 7/3 times.
    seventh = 1 / 7
    expected = np.array([seventh + 1 / 2, seventh + 1 / 2 + 1, *[seventh] * 5]) * 7 / 3
    np.testing.assert_allclose(factors, [*expected, 1], rtol=1e-12)
    np.testing.assert_allclose(factors[:7].sum(), 7)
    assert class_balanced(IMAGES[:0], LABELS[:0], 3, 4).tolist() == [1, 1, 1]


def test_share_of_images_without_objects() -> None:
    is_empty = np.array([True, False, False, True, False])
    factors = np.array([1.0, 2, 1, 1, 3])
    quarter = with_empty_share(factors, is_empty, 0.25)
    assert quarter.tolist() == [1, 2, 1, 1, 3]  # 2 of 8 is what there was
    half = with_empty_share(factors, is_empty, 0.5)
    assert half.tolist() == [3, 2, 1, 3, 3]
    assert with_empty_share(factors, is_empty, 0).tolist() == [0, 2, 1, 0, 3]
    assert with_empty_share(factors[1:3], is_empty[1:3], 0).tolist() == [2, 1]
    with pytest.raises(
        ValueError, match=r"loader.empty_share=0.1 wants images without objects, and .* has none"
    ):
        with_empty_share(factors[1:3], is_empty[1:3], 0.1)
    with pytest.raises(ValueError, match=r"loader.empty_share=0.1 wants images with objects"):
        with_empty_share(factors[:1], is_empty[:1], 0.1)


def test_drawn_as_often_as_asked() -> None:
    factors = np.array([0, 0.25, 1, 1.5, 2.75, 0.5])
    counts = np.array(
        [np.bincount(drawn(factors, np.random.default_rng(seed)), minlength=6) for seed in range(4000)]
    )
    assert (counts.sum(axis=1) == 6).all()
    assert ((counts == np.floor(factors)) | (counts == np.ceil(factors))).all()
    np.testing.assert_allclose(counts.mean(axis=0), factors, atol=0.03)
    orders = {tuple(drawn(np.ones(4), np.random.default_rng(seed)).tolist()) for seed in range(300)}
    assert len(orders) == 24
    assert drawn(np.zeros(3), np.random.default_rng(0)).tolist() == []


def padding(order: np.ndarray, shapes: np.ndarray, batch_size: int) -> float:
    batches = shapes[order[: len(order) // batch_size * batch_size].reshape(-1, batch_size)]
    return float((batches.max(axis=1).prod(axis=1) * batch_size).sum() / batches.prod(axis=2).sum())


@pytest.mark.parametrize("batch_size", [8, 16])
def test_batches_of_like_shape_are_padded_less(batch_size: int) -> None:
    generator = np.random.default_rng(0)
    # Photographs as they come: most 4:3 or 3:2, a quarter upright, some of any shape.
    usual = generator.choice([4 / 3, 3 / 2, 1.0, 16 / 9], 4000, p=[0.5, 0.3, 0.1, 0.1])
    aspect = np.where(generator.random(4000) < 0.3, generator.uniform(1, 2.2, 4000), usual)
    aspect = np.where(generator.random(4000) < 0.25, 1 / aspect, aspect)
    sizes = [(480, round(480 * a)) if a >= 1 else (round(480 / a), 480) for a in aspect.tolist()]
    shapes = np.array([Preprocessing().output_size(*size) for size in sizes])
    order = generator.permutation(4000)
    grouped = by_shape(order, shapes, batch_size, 64, np.random.default_rng(1))
    assert sorted(grouped.tolist()) == list(range(4000))
    before, after = padding(order, shapes, batch_size), padding(grouped, shapes, batch_size)
    assert after < 1.06
    assert before / after > 1.4
    # Of images of many sizes, too.
    shapes = generator.integers(100, 1000, (4000, 2))
    before, after = (
        padding(o, shapes, batch_size) for o in (order, by_shape(order, shapes, batch_size, 64, generator))
    )
    assert before / after > 1.6


def test_windows_stay_apart_and_the_rest_at_the_end() -> None:
    order = np.arange(23)
    shapes = np.stack([np.arange(23) % 5 + 1, np.ones(23)], axis=1)
    grouped = by_shape(order, shapes, 2, 4, np.random.default_rng(0))
    for start in (0, 8):
        assert sorted(grouped[start : start + 8].tolist()) == list(range(start, start + 8))
    assert sorted(grouped[16:22].tolist()) == list(range(16, 22))
    assert grouped[22] == 22
    assert by_shape(order[:1], shapes, 2, 4, np.random.default_rng(0)).tolist() == [0]


FACTORS = np.random.default_rng(5).uniform(0, 3, 40)
SHAPES = np.random.default_rng(6).integers(1, 50, (40, 2))
CHOICES: list[dict[str, Any]] = [
    {},
    {"factors": FACTORS},
    {"shapes": SHAPES, "window": 3},
    {"factors": FACTORS, "shapes": SHAPES, "window": 2},
]


def sampler(**options: Any) -> EpochSampler:
    return EpochSampler(40, shuffle=True, **{"seed": 7, "batch_size": 3, **options})


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_what_is_drawn(choices: dict[str, Any], num_ranks: int) -> None:
    parts = []
    for rank in range(num_ranks):
        one = sampler(rank=rank, num_ranks=num_ranks, **choices)
        one.set_epoch(2)
        indices = [index for _, index in one]
        assert len(indices) == len(one)
        parts.append(indices)
    assert len({len(part) for part in parts}) == 1  # so are the batches
    alone = sampler(**choices)
    alone.set_epoch(2)
    drawn_by_one = np.bincount([index for _, index in alone], minlength=40)
    together = np.bincount(np.concatenate(parts), minlength=40)
    if not choices.get("window"):
        assert (together <= drawn_by_one).all()
    assert drawn_by_one.sum() - together.sum() < num_ranks
    if "factors" in choices:
        assert (
            (together >= np.floor(FACTORS * 0.98) - (num_ranks - 1)) & (together <= np.ceil(FACTORS * 1.02))
        ).all()
    else:
        assert together.max() == 1  # disjoint


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_batches_of_all_ranks_have_like_shapes(num_ranks: int) -> None:
    ranks = [
        [i for _, i in sampler(rank=rank, num_ranks=num_ranks, shapes=SHAPES, window=100, batch_size=4)]
        for rank in range(num_ranks)
    ]
    plain = [i for _, i in sampler(batch_size=4)]
    at_once = np.concatenate([np.array(r[: len(r) // 4 * 4]).reshape(-1, 4) for r in ranks], axis=1)
    flat = at_once.reshape(-1)
    assert padding(flat, SHAPES, 4 * num_ranks) < 0.7 * padding(np.array(plain), SHAPES, 4 * num_ranks)


@pytest.mark.parametrize("choices", CHOICES)
@pytest.mark.parametrize("start", [0, 1, 6, 20])
def test_going_on_in_the_middle(choices: dict[str, Any], start: int) -> None:
    straight, resumed = (sampler(rank=1, num_ranks=2, **choices) for _ in range(2))
    for one in (straight, resumed):
        one.set_epoch(3)
    resumed.start = start
    assert list(resumed) == list(straight)[start:]
    assert list(resumed) == list(straight)  # and the next time all of it
    straight.set_epoch(4)
    assert list(resumed) != list(straight)


def module(source: Any, **options: Any) -> DataModule:
    return DataModule(source, Preprocessing(short_side=None), batch_size=4, **options)


def test_the_data_module_samples_as_asked() -> None:
    source = DigitsData(size=64, num_train=40, num_val=8, num_test=1)
    split = source.split("train")
    images, labels = classes_of_images(split.annotations)
    for index in range(40):
        assert sorted(labels[images == index]) == sorted(set(split.annotations.target(index).labels.tolist()))
    loader = module(source, sampling="repeat_factor", repeat_threshold=0.9).train_dataloader()
    factors = loader.sampler.factors  # type: ignore[attr-defined]
    np.testing.assert_array_equal(factors, repeat_factors(images, labels, 40, 10, 0.9))
    assert len(loader) == int(round(factors.sum()) / 4) > 10
    assert sum(len(batch) for batch in loader) == 4 * len(loader)
    balanced = module(source, sampling="class_balanced", shape_window=4).train_dataloader().sampler
    np.testing.assert_array_equal(balanced.factors, class_balanced(images, labels, 40, 10))  # type: ignore[attr-defined]
    assert balanced.shapes.tolist() == [[64, 64]] * 40  # type: ignore[attr-defined]
    validation = module(source, sampling="class_balanced", shape_window=4).val_dataloader()
    assert [i for batch in validation for i in batch.image_ids.tolist()] == list(range(8))


def test_images_of_one_class_each() -> None:
    source = SingleDigitsData()
    loader = module(source, classes=True, sampling="class_balanced").train_dataloader()
    labels = source.split("train").annotations.labels
    drawn_labels = labels[[index for _, index in loader.sampler]]
    counts = np.bincount(drawn_labels, minlength=10)
    assert counts.max() - counts.min() <= 10 + 0.02 * len(labels)
    with pytest.raises(ValueError, match="loader.shape_window=2 needs the sizes of all images beforehand"):
        module(source, classes=True, shape_window=2).train_dataloader()


def test_options() -> None:
    source = DigitsData(size=64, num_train=4, num_val=1, num_test=1)
    with pytest.raises(
        ValueError, match="loader.sampling=rare is unknown; wanted one of all, repeat_factor, class_b"
    ):
        module(source, sampling="rare")
    for options in ({"repeat_threshold": 0}, {"shape_window": -1}, {"empty_share": 1}):
        with pytest.raises(ValueError, match="loader.repeat_threshold=.* must be above 0"):
            module(source, **options)
    with pytest.raises(ValueError, match="does not list; leave them out for semantic segmentation"):
        module(source, class_maps=True, sampling="class_balanced").train_dataloader()


def test_settings_that_only_the_signature_knows() -> None:
    config = compose(
        "train", ["loader.sampling=repeat_factor", "loader.workers=thread", "loader.shape_window=32"]
    )
    assert config.loader.workers == "thread"
    assert config.loader.shape_window == 32
    with pytest.raises(ValueError, match="unknown setting 'loader.worker'.*loader.workers"):
        compose("train", ["loader.worker=thread"])
    with pytest.raises(ValueError, match="unknown setting 'loader.masks'"):
        compose("train", ["loader.masks=true"])
