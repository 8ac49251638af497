"""What every augmentation keeps, over random scenes: boxes and masks true, and the same result from the same seed."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import albumentations as A
import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tasks.cli.compose import compose
from tasks.cli.data import transforms_of
from tasks.cli.folders import config_groups
from tasks.data.annotations.masks import cropped, mask_box
from tasks.data.augmentation.multi_image import CopyPaste, CutMix, MixUp, Mosaic
from tasks.data.augmentation.pipeline import Augmentation
from tasks.data.augmentation.scale import CropKeepingBoxes, LargeScaleJitter, MultiScale
from tasks.data.datamodule import DataModule
from tasks.data.formats.digits import DigitsData
from tasks.preprocessing import Preprocessing
from tasks.targets import Target

PREPROCESSING = Preprocessing(short_side=48, max_size=80)
OWN: dict[str, Callable[[], Any]] = {
    "mosaic": lambda: Mosaic(),
    "small_mosaic": lambda: Mosaic(scale=(0.05, 0.3), centre=0.5),
    "mixup": lambda: MixUp(),
    "cutmix": lambda: CutMix(),
    "copy_paste": lambda: CopyPaste(p=1),
    "lsj": lambda: LargeScaleJitter(),
    "lsj_window": lambda: LargeScaleJitter(size=[40, 30], scale=(0.5, 2)),
    "multi_scale": lambda: MultiScale(scale=(0.3, 1.5)),
    "crop_one": lambda: CropKeepingBoxes(),
    "crop_all": lambda: CropKeepingBoxes(keep="all", min_side=0.1),
    "flip": lambda: A.HorizontalFlip(p=1),
    "affine": lambda: A.Affine(rotate=(-30, 30), scale=(0.5, 1.5), p=1),
    "colour": lambda: A.ColorJitter(p=1),
    "blur": lambda: A.GaussianBlur(p=1),
}
GROUPS = config_groups()["augmentation"]


def group(name: str) -> Augmentation:
    return Augmentation(transforms_of(compose("train", [f"augmentation={name}"])))


AUGMENTATIONS = {
    **{name: Augmentation([make()]) for name, make in OWN.items()},
    **{f"augmentation={name}": group(name) for name in GROUPS},
    "everything": Augmentation([make() for make in OWN.values()]),
}


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, Target]:
    """Ellipses, rectangles and rings over noise, some hidden by others, some a pixel large; boxes around them."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    height, width = draw(st.integers(8, 90)), draw(st.integers(8, 90))
    image = generator.integers(0, 256, (height, width, 3), np.uint8)
    rows, columns = np.mgrid[:height, :width]
    masks = []
    for _ in range(draw(st.integers(0, 6))):
        x, y = generator.uniform(0, width), generator.uniform(0, height)
        a, b = generator.uniform(0.5, width / 2), generator.uniform(0.5, height / 2)
        far = ((columns + 0.5 - x) / a) ** 2 + ((rows + 0.5 - y) / b) ** 2
        shape = [
            far <= 1,
            np.maximum(abs(columns + 0.5 - x) / a, abs(rows + 0.5 - y) / b) <= 1,
            abs(far - 0.8) < 0.2,
        ]
        mask = cropped(shape[generator.integers(3)].astype(np.uint8))
        if mask.bitmap.size:
            masks.append(mask)
    jitter = generator.uniform(-0.9, 0.9, (len(masks), 4))
    boxes = np.array([mask_box(mask) for mask in masks]).reshape(-1, 4) + jitter
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 0.2)
    return image, Target(
        image_id=3,
        original_size=(height, width),
        boxes=boxes.clip(0, [width, height, width, height]).astype(np.float32),
        labels=generator.integers(0, 5, len(masks)),
        is_crowd=generator.random(len(masks)) < 0.2,
        masks=masks,
    )


def check(image: np.ndarray, target: Target) -> None:
    height, width = image.shape[:2]
    assert image.dtype == np.uint8
    assert image.shape[2] == 3 and min(height, width) > 0
    assert target.boxes.dtype == np.float32
    assert target.labels.dtype == np.int64
    assert target.is_crowd.dtype == bool
    assert target.boxes.shape == (len(target.labels), 4) == (len(target.is_crowd), 4)
    assert np.isfinite(target.boxes).all()
    assert (target.boxes >= 0).all()
    assert (target.boxes <= [width, height, width, height]).all()
    assert (target.boxes[:, 2:] > target.boxes[:, :2]).all()
    if target.masks is None:
        return
    assert len(target.masks) == len(target.boxes)
    for mask, box in zip(target.masks, target.boxes, strict=True):
        assert mask.bitmap.dtype == np.uint8
        assert set(np.unique(mask.bitmap)) <= {0, 1}
        own = mask_box(mask)
        assert (own >= 0).all() and (own <= [width, height, width, height]).all()
        assert mask.bitmap[0].any() and mask.bitmap[-1].any()
        assert mask.bitmap[:, 0].any() and mask.bitmap[:, -1].any()
        assert (np.abs(own - box) <= 1.001).all(), (own, box)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@settings(max_examples=15, deadline=None)
@given(st.lists(scenes(), min_size=1, max_size=4), st.integers(0, 2**32))
def test_boxes_and_masks_stay_true_and_runs_repeat(
    name: str, some: list[tuple[np.ndarray, Target]], seed: int
) -> None:
    augmentation = AUGMENTATIONS[name]
    if "pad_crop_flip" in name:
        assume(min(some[0][0].shape[:2]) >= 24)  # what it crops is 32 pixels large, of four more on each side
    before = [(image.copy(), target.boxes.copy(), len(target.masks or ())) for image, target in some]

    def augmented(targets: list[tuple[np.ndarray, Target]]) -> tuple[np.ndarray, Target]:
        return augmentation(
            *targets[0],
            (seed, 0, 1),
            preprocessing=PREPROCESSING,
            draw=lambda generator: targets[generator.integers(len(targets))],
        )

    if augmentation:
        image, target = augmented(some)
        check(image, target)
        augmentation(
            *some[-1], (seed, 5, 5), preprocessing=PREPROCESSING
        )  # what comes between must not matter
        again_image, again = augmented(some)
        np.testing.assert_array_equal(image, again_image)
        np.testing.assert_array_equal(target.boxes, again.boxes)
        assert target.masks is not None and again.masks is not None
        for mask, other in zip(target.masks, again.masks, strict=True):
            np.testing.assert_array_equal(mask.bitmap, other.bitmap)
    for (image, target), (old_image, old_boxes, num_masks) in zip(some, before, strict=True):
        np.testing.assert_array_equal(image, old_image)  # what was given is the caller's own
        np.testing.assert_array_equal(target.boxes, old_boxes)
        assert len(target.masks or ()) == num_masks
    if "copy_paste" in name or name == "everything":
        return
    without = [(image, replace(target, masks=None)) for image, target in some]
    image, target = augmented(without)
    check(image, target)
    assert target.masks is None


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("workers", ["process", "thread"])
def test_the_same_batches_from_all_workers(name: str, workers: str) -> None:
    source = DigitsData(size=64, num_train=8, num_val=1, num_test=1)
    transforms = transforms_of(compose("train", [f"augmentation={name}"]))

    def batches(num_workers: int) -> list[Any]:
        module = DataModule(
            source,
            PREPROCESSING,
            augmentation=transforms,
            batch_size=2,
            num_workers=num_workers,
            workers=workers,  # type: ignore[arg-type]
            masks=True,
            seed=4,
        )
        loader = module.train_dataloader()
        loader.sampler.set_epoch(1)  # type: ignore[attr-defined]
        return list(loader)

    for one, other in zip(batches(0), batches(2), strict=True):
        for key, value in vars(one).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, getattr(other, key)), key
