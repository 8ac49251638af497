"""What single augmentations make of images small enough to work out by hand, and the options they refuse."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tasks.data.annotations.masks import NO_MASK, cropped, mask_box
from tasks.data.augmentation.geometry import crop, occlude, occlude_by_mask, resized
from tasks.data.augmentation.multi_image import CopyPaste, CutMix, MixUp, Mosaic
from tasks.data.augmentation.pipeline import Augmentation
from tasks.data.augmentation.scale import CropKeepingBoxes, LargeScaleJitter, MultiScale
from tasks.data.datamodule import DataModule
from tasks.data.formats.digits import DigitsData
from tasks.preprocessing import Preprocessing
from tasks.targets import IGNORE_LABEL, ObjectMask, Target

PREPROCESSING = Preprocessing(short_side=48, max_size=80)


def blank(
    height: int, width: int, value: int, boxes: list[list[float]], **more: Any
) -> tuple[np.ndarray, Target]:
    image = np.full((height, width, 3), value, np.uint8)
    array = np.array(boxes, np.float32).reshape(-1, 4)
    rows = len(array)
    return image, Target(1, (height, width), array, np.arange(rows), np.zeros(rows, bool), **more)


def solid(left: int, top: int, right: int, bottom: int) -> ObjectMask:
    return ObjectMask(left, top, np.ones((bottom - top, right - left), np.uint8))


def test_cut_by_hand() -> None:
    boxes = [[0, 0, 10, 10], [0, 0, 5.5, 20], [20, 10, 40, 20], [4, 0, 6, 4]]
    masks = [solid(0, 0, 10, 10), solid(0, 0, 5, 20), solid(20, 10, 40, 20), NO_MASK]
    image, target = crop(*blank(20, 40, 9, boxes, masks=masks), (5, 0, 30, 15))
    assert image.shape == (15, 25, 3)
    # Of the second half a pixel is left of 5.5; the fourth, whose mask is unknown, goes by its box.
    assert target.labels.tolist() == [0, 2, 3]
    assert target.boxes.tolist() == [[0, 0, 5, 10], [15, 10, 25, 15], [0, 0, 1, 4]]
    assert target.masks is not None
    assert [mask_box(mask).tolist() for mask in target.masks[:2]] == [[0, 0, 5, 10], [15, 10, 25, 15]]
    assert target.masks[2].bitmap.size == 0


def test_cut_of_a_mask_that_is_not_there_drops_the_object() -> None:
    corner = np.zeros((10, 10), np.uint8)
    corner[:, 9] = corner[9] = 1  # an L: nothing of it in the upper left quarter
    sample = blank(20, 20, 0, [[0, 0, 10, 10]], masks=[ObjectMask(0, 0, corner)])
    assert len(crop(*sample, (0, 0, 8, 8))[1].boxes) == 0
    _, target = crop(*sample, (0, 5, 20, 20))
    assert target.boxes.tolist() == [[0, 0, 10, 5]]
    _, target = crop(*sample, (0, 0, 20, 9))  # its upright alone, a pixel wide
    assert target.boxes.tolist() == [[8, 0, 10, 9]]


def test_resized_drops_what_is_too_small() -> None:
    masks = [solid(0, 0, 20, 20), solid(30, 0, 31, 4)]
    image, target = resized(*blank(40, 40, 7, [[0, 0, 20, 20], [30, 0, 31, 4]], masks=masks), (20, 10))
    assert image.shape == (20, 10, 3)
    assert target.boxes.tolist() == [[0, 0, 5, 10]]


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ((0, 0, 5, 40), [5, 10, 20, 30]),  # loses its left side
        ((15, 0, 40, 40), [10, 10, 15, 30]),
        ((0, 0, 40, 12), [10, 12, 20, 30]),
        ((0, 28, 40, 40), [10, 10, 20, 28]),
        ((0, 12, 40, 20), [10, 10, 20, 30]),  # a hole
        ((0, 0, 15, 20), [10, 10, 20, 30]),  # a corner
        ((30, 10, 40, 30), [10, 10, 20, 30]),  # beside it
        ((0, 0, 10, 40), [10, 10, 20, 30]),  # up to it
        ((9, 9, 21, 31), None),
        ((0, 0, 19, 29), [10, 10, 20, 30]),
        ((0, 0, 20, 28), None),  # all but a tenth
    ],
)
def test_covered_by_a_window(window: tuple[int, int, int, int], expected: list[float] | None) -> None:
    if window == (0, 0, 5, 40):
        window = (0, 0, 12, 40)
        expected = [12, 10, 20, 30]
    _, target = blank(40, 40, 0, [[10, 10, 20, 30]])
    rest = occlude(target, window)
    if window == (0, 0, 20, 28):
        assert rest.boxes.tolist() == [[10, 28, 20, 30]]  # exactly a tenth stays
        rest = occlude(target, (0, 0, 20, 29))
        assert len(rest.boxes) == 0
        return
    if window == (0, 0, 19, 29):
        assert len(rest.boxes) == 1
    assert rest.boxes.tolist() == ([] if expected is None else [expected])


def test_covered_by_a_mask() -> None:
    masks = [solid(0, 0, 10, 10), solid(20, 0, 30, 10), solid(0, 20, 5, 25)]
    _, target = blank(30, 30, 0, [[0, 0, 10, 10], [19.5, 0, 30, 10], [0, 20, 5, 25]], masks=masks)
    shape = np.zeros((30, 30), bool)
    shape[:10, 4:12] = True  # six of ten columns
    shape[20:25, :5] = True  # all of the third
    rest = occlude_by_mask(target, shape)
    assert rest.labels.tolist() == [0, 1]
    assert rest.boxes.tolist() == [[0, 0, 5, 10], [19.5, 0, 30, 10]]
    assert rest.masks is not None
    assert mask_box(rest.masks[0]).tolist() == [0, 0, 4, 10]


def run(
    transform: Any, *samples: tuple[np.ndarray, Target], seed: int = 0, **more: Any
) -> tuple[np.ndarray, Target]:
    others = iter(samples[1:])
    return Augmentation([transform])(
        *samples[0], (seed,), preprocessing=PREPROCESSING, draw=lambda generator: next(others), **more
    )


def test_mosaic_shows_four_images_with_their_objects() -> None:
    samples = [blank(60, 80, value, [[0, 0, 80, 60]]) for value in (50, 100, 150, 200)]
    for number, (_, target) in enumerate(samples):
        target.labels[:] = number
    for seed in range(20):
        image, target = run(Mosaic(scale=(1, 1), centre=0.4), *samples, seed=seed)
        assert image.shape == (60, 80, 3)
        assert sorted(target.labels.tolist()) == [0, 1, 2, 3]
        for (x1, y1, x2, y2), label in zip(target.boxes.astype(int).tolist(), target.labels, strict=True):
            assert (image[y1:y2, x1:x2] == 50 * (label + 1)).all()
        assert target.boxes[:, 2:].max(axis=0).tolist() == [80, 60]
        assert (np.diff(target.boxes.reshape(-1, 2, 2), axis=1).prod(axis=2)).sum() == 60 * 80
    image, target = run(Mosaic(scale=(0.2, 0.2)), *samples)
    grey = np.rint(np.array(PREPROCESSING.mean) * 255)
    assert (image[0, 0] == grey).all() and (image[-1, -1] == grey).all()
    assert (np.diff(target.boxes.reshape(-1, 2, 2), axis=1).reshape(-1, 2) == [16, 12]).all()


def test_mosaic_of_class_maps() -> None:
    samples = [
        blank(60, 80, value, [], class_map=np.full((60, 80), value // 50, np.uint8))
        for value in (50, 100, 150, 200)
    ]
    image, target = run(Mosaic(scale=(0.3, 1)), *samples)
    assert target.class_map is not None
    shown = target.class_map != IGNORE_LABEL
    assert (image[shown, 0] == 50 * target.class_map[shown]).all()
    assert set(np.unique(target.class_map)) == {1, 2, 3, 4, IGNORE_LABEL}
    image, target = run(CutMix(), *samples[:2], seed=3)
    assert target.class_map is not None
    assert (image[:, :, 0] == 50 * target.class_map).all()
    assert set(np.unique(target.class_map)) == {1, 2}
    with pytest.raises(ValueError, match="MixUp leaves no pixel with one class"):
        run(MixUp(), *samples)


def test_mixup_by_hand() -> None:
    image, target = run(
        MixUp(alpha=1000), blank(40, 40, 200, [[0, 0, 9, 9]]), blank(40, 20, 100, [[2, 2, 8, 8]])
    )
    assert len(target.boxes) == 2
    left = int(target.boxes[1][0]) - 2
    assert target.boxes[1].tolist() == [left + 2, 2, left + 8, 8]
    assert (np.abs(image[:, left : left + 20].astype(int) - 150) <= 5).all()
    assert (image[:, :left] == 200).all() and (image[:, left + 20 :] == 200).all()


def test_cutmix_shows_the_other_image_where_its_objects_are() -> None:
    for seed in range(30):
        image, target = run(
            CutMix(), blank(40, 50, 200, [[0, 0, 50, 40]]), blank(40, 50, 100, [[0, 0, 50, 40]]), seed=seed
        )
        pasted = np.argwhere(image[:, :, 0] == 100)
        if not len(pasted) or (np.ptp(pasted, axis=0) == 0).any():
            continue
        (top, left), (bottom, right) = pasted.min(axis=0), pasted.max(axis=0) + 1
        assert (image[top:bottom, left:right] == 100).all()
        assert target.boxes[-1].tolist() == [left, top, right, bottom]
        covered = (bottom - top) * (right - left) / (40 * 50)
        assert len(target.boxes) == (2 if covered <= 0.9 else 1)


def test_copy_paste_by_hand() -> None:
    def disc(value: int) -> tuple[np.ndarray, Target]:
        rows, columns = np.mgrid[:40, :40]
        mask = cropped((((rows - 20) ** 2 + (columns - 20) ** 2) < 100).astype(np.uint8))
        crowd = solid(0, 0, 3, 3)
        image, target = blank(40, 40, value, [mask_box(mask).tolist(), [0, 0, 3, 3]], masks=[mask, crowd])
        target.is_crowd[1] = True
        return image, target

    image, target = run(CopyPaste(scale=(0.5, 0.5), p=1), disc(50), disc(250))
    assert target.labels.tolist() == [0, 1, 0]  # crowds stay where they are
    assert target.masks is not None
    pasted = target.masks[2]
    inside = image[
        pasted.top : pasted.top + pasted.bitmap.shape[0], pasted.left : pasted.left + pasted.bitmap.shape[1]
    ]
    assert (inside[pasted.bitmap > 0] == 250).all() and (inside[pasted.bitmap == 0] == 50).all()
    assert (image == 250).all(axis=2).sum() == pasted.bitmap.sum()
    whole = np.zeros((40, 40), int)
    for mask in (target.masks[0], pasted):
        whole[mask.top : mask.top + mask.bitmap.shape[0], mask.left : mask.left + mask.bitmap.shape[1]] += (
            mask.bitmap
        )
    assert whole.max() == 1  # what is pasted hides what was there


def test_large_scale_jitter_by_hand() -> None:
    sample = blank(40, 20, 9, [[0, 0, 20, 40]])
    image, target = run(LargeScaleJitter(size=[80, 80], scale=(1, 1)), sample)
    assert image.shape == (80, 40, 3)
    assert target.boxes.tolist() == [[0, 0, 40, 80]]
    image, target = run(LargeScaleJitter(size=[80, 80], scale=(2, 2)), sample)
    assert image.shape == (80, 80, 3)
    assert target.boxes.tolist() == [[0, 0, 80, 80]]
    assert run(LargeScaleJitter(scale=(0.5, 0.5)), sample)[0].shape == (24, 12, 3)  # of preprocessing's 48


def test_scales_come_from_the_preprocessing() -> None:
    for seed in range(10):
        image, _ = run(MultiScale(scale=(0.5, 1)), blank(40, 60, 9, []), seed=seed)
        assert 24 <= image.shape[0] <= 48
        assert abs(image.shape[1] / image.shape[0] - 1.5) < 0.05
    image, _ = run(MultiScale(scale=(1, 1)), blank(20, 100, 9, []))
    assert image.shape == (16, 80, 3)  # max_size


@pytest.mark.parametrize("keep", ["one", "all"])
def test_crops_keep_boxes_whole(keep: Any) -> None:
    boxes = [[3.5, 2, 8, 9.25], [30, 25, 38, 39], [50, 1, 60, 12]]
    sizes = set()
    for seed in range(50):
        image, target = run(CropKeepingBoxes(keep=keep, min_side=0.3), blank(40, 60, 9, boxes), seed=seed)
        sizes.add(image.shape)
        old = np.array([[b[2] - b[0], b[3] - b[1]] for b in boxes])[target.labels]
        whole = np.isclose(target.boxes[:, 2:] - target.boxes[:, :2], old).all(axis=1)
        assert whole.all() and len(whole) == 3 if keep == "all" else whole.any()
    assert len(sizes) > (1 if keep == "all" else 20)


def test_closing_epochs() -> None:
    samples = [blank(40, 40, value, []) for value in (10, 20, 30, 40)]
    mosaic = Mosaic(close_mosaic_epochs=2)
    for left, changed in ((None, True), (2, True), (1, False), (0, False)):
        image, _ = run(mosaic, *samples, epochs_left=left)
        assert (image != 10).any() == changed


def test_the_data_module_knows_how_many_epochs_are_left() -> None:
    def last_epoch(**settings: Any) -> int | None:
        module = DataModule(
            DigitsData(size=64, num_train=10, num_val=1, num_test=1),
            PREPROCESSING,
            augmentation=[Mosaic(close_mosaic_epochs=1)],
            batch_size=2,
        )
        standard = {
            "max_epochs": -1,
            "max_steps": -1,
            "limit_train_batches": 1.0,
            "accumulate_grad_batches": 1,
        }
        strategy = SimpleNamespace(root_device=torch.device("cpu"))
        module.trainer = SimpleNamespace(  # type: ignore[assignment]
            global_rank=0, world_size=1, num_devices=1, strategy=strategy, **{**standard, **settings}
        )
        return module.train_dataloader().dataset.num_epochs  # type: ignore[attr-defined]

    assert last_epoch() is None
    assert last_epoch(max_epochs=7) == 7
    assert last_epoch(max_steps=11) == 3  # five batches an epoch
    assert last_epoch(max_steps=11, max_epochs=2) == 2
    assert last_epoch(max_steps=10, accumulate_grad_batches=2) == 4
    assert last_epoch(max_steps=10, limit_train_batches=2) == 5


def test_sizes_that_augmentation_sets_are_left_alone() -> None:
    source = DigitsData(size=64, num_train=4, num_val=1, num_test=1)
    module = DataModule(source, PREPROCESSING, augmentation=[LargeScaleJitter(size=[40, 40])], batch_size=4)
    batch = next(iter(module.train_dataloader()))
    assert (batch.sizes <= 40).all()
    assert next(iter(module.val_dataloader())).sizes.tolist() == [[48, 48]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mosaic(p=2), r"Mosaic: p=2 must be between 0 and 1, close_mosaic_epochs=0 at least 0"),
        (
            lambda: Mosaic(scale=[1, 0.5]),
            r"Mosaic: scale=\[1, 0.5\] must be two numbers above 0, the smaller one first",
        ),
        (lambda: Mosaic(centre=0.7), "Mosaic: centre=0.7 must be above 0 and at most 0.5"),
        (lambda: MixUp(alpha=0), "MixUp: alpha=0 must be above 0"),
        (lambda: CutMix(alpha=0), "CutMix: alpha=0 must be above 0"),
        (lambda: CopyPaste(scale=[0.5]), r"CopyPaste: scale=\[0.5\] must be two numbers"),
        (
            lambda: LargeScaleJitter(size=[0, 5]),
            r"LargeScaleJitter: size=\[0, 5\] must be a height and a width",
        ),
        (lambda: MultiScale(scale=[0, 1]), r"MultiScale: scale=\[0, 1\] must be two numbers"),
        (lambda: CropKeepingBoxes(keep="none"), "keep=none is unknown; wanted one or all"),  # type: ignore[arg-type]
        (lambda: CropKeepingBoxes(min_side=0), "min_side=0 must be above 0 and at most 1"),
    ],
)
def test_bad_options(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_tasks_that_a_transform_is_not_for() -> None:
    sample = blank(20, 20, 9, [[1, 1, 9, 9]])
    with pytest.raises(
        ValueError, match="CopyPaste cuts objects out along their masks.*task=instance_segmentation"
    ):
        run(CopyPaste(p=1), sample, sample)
    whole = blank(20, 20, 9, [], class_id=4)
    for transform in (Mosaic(), MixUp(), CutMix()):
        with pytest.raises(
            ValueError, match="for classification leave it out, and use task.mixup or task.cutmix"
        ):
            run(transform, whole, whole)
