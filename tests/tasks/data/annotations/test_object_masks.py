"""Masks of objects through flips, resizing, augmentation and batching."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from tasks.data.annotations.masks import (
    cropped,
    decode_mask,
    flip_mask,
    from_planes,
    mask_box,
    resize_mask,
    to_planes,
)
from tasks.data.augmentation.pipeline import Augmentation
from tasks.data.datamodule import DataModule
from tasks.data.formats.digits import DigitsData, SingleDigitsData
from tasks.data.loading.collate import collate
from tasks.preprocessing import Preprocessing
from tasks.targets import Target


def full_size(mask, height: int, width: int) -> np.ndarray:
    full = np.zeros((height, width), np.uint8)
    h, w = mask.bitmap.shape
    full[mask.top : mask.top + h, mask.left : mask.left + w] = mask.bitmap
    return full


@pytest.fixture(scope="module")
def blobs() -> np.ndarray:
    """uint8 (11, 40, 60): rectangles with a hole; one empty."""
    generator = np.random.default_rng(0)
    blobs = np.zeros((11, 40, 60), np.uint8)
    for blob in blobs[:-1]:
        y, x = generator.integers(0, 30), generator.integers(0, 45)
        h, w = generator.integers(5, 10), generator.integers(5, 15)
        blob[y : y + h, x : x + w] = 1
        blob[y + 2 : y + 3, x + 2 : x + 4] = 0
    return blobs


def test_decoding_gives_the_pixels_of_pycocotools(blobs: np.ndarray) -> None:
    for blob in blobs:
        rle = coco_mask.encode(np.asfortranarray(blob))
        assert (full_size(decode_mask(rle, 40, 60), 40, 60) == blob).all()
    polygon = [[5.0, 5.0, 30.0, 8.0, 20.0, 30.0]]
    expected = coco_mask.decode(coco_mask.frPyObjects(polygon, 40, 60))[:, :, 0]
    mask = decode_mask(polygon, 40, 60)
    assert (full_size(mask, 40, 60) == expected).all()
    assert mask.bitmap.any(axis=1).all() and mask.bitmap.any(axis=0).all()
    assert decode_mask(None, 40, 60).bitmap.size == 0


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12), st.integers(1, 90), st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]), st.integers(0, 999)
)
def test_decoding_run_lengths_equals_pycocotools(height: int, width: int, share: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    flat = generator.random((height, width)) < share
    rle = coco_mask.encode(np.asfortranarray(flat.astype(np.uint8)))
    mask = decode_mask(rle, height, width)
    assert (full_size(mask, height, width) == flat).all()
    assert not mask.bitmap.size or (
        mask.bitmap.any(axis=1)[[0, -1]].all() and mask.bitmap.any(axis=0)[[0, -1]].all()
    )
    assert mask.bitmap.flags.c_contiguous


def test_decoding_long_runs() -> None:
    flat = np.zeros((3000, 4000), np.uint8)
    flat[100:2900, 20:3990] = 1
    flat[500:600, 1000:2000] = 0
    mask = decode_mask(coco_mask.encode(np.asfortranarray(flat)), 3000, 4000)
    assert (full_size(mask, 3000, 4000) == flat).all()
    assert (mask.left, mask.top) == (20, 100)


def test_flip(blobs: np.ndarray) -> None:
    for blob in blobs:
        assert (full_size(flip_mask(cropped(blob), 60), 40, 60) == blob[:, ::-1]).all()


@pytest.mark.parametrize("factor", [2, 3])
def test_enlarging_repeats_pixels_but_for_corners(blobs: np.ndarray, factor: int) -> None:
    for blob in blobs:
        enlarged = resize_mask(cropped(blob), (40, 60), (40 * factor, 60 * factor))
        expected = blob.repeat(factor, 0).repeat(factor, 1)
        different = full_size(enlarged, 40 * factor, 60 * factor) != expected
        assert different.sum() <= 16 * factor  # the four corners of the rectangle and of its hole are rounded


def test_halving_keeps_the_area(blobs: np.ndarray) -> None:
    for blob in blobs:
        halved = resize_mask(cropped(blob), (40, 60), (20, 30))
        assert halved.bitmap.sum() == pytest.approx(blob.sum() / 4, abs=10)


def test_planes_keep_every_mask(blobs: np.ndarray) -> None:
    planes = to_planes([cropped(blob) for blob in blobs], 40, 60)
    assert planes.shape == (2, 40, 60)
    for row, mask in zip([0, 8, 3, 10], from_planes(planes, [0, 8, 3, 10]), strict=True):
        assert (full_size(mask, 40, 60) == blobs[row]).all()


def test_augmentation_moves_masks_with_boxes() -> None:
    import albumentations as A

    source = DigitsData(num_train=6, num_val=1, num_test=1, masks=True).split("train")
    augmentation = Augmentation(
        [A.HorizontalFlip(p=0.5), A.Affine(scale=(0.7, 1.3), rotate=0, translate_percent=0.1, p=1.0)]
    )
    seen = 0
    for index in range(len(source)):
        for seed in range(4):
            image, target = augmentation(
                source.image(index), source.annotations.target(index), seed=(seed, index)
            )
            assert target.masks is not None
            assert len(target.masks) == len(target.boxes)
            for mask, box in zip(target.masks, target.boxes, strict=True):
                assert np.abs(mask_box(mask) - box).max() <= 1.001, (mask_box(mask), box)
                assert full_size(mask, *image.shape[:2]).sum() == mask.bitmap.sum()
                seen += 1
    assert seen > 50


def test_collate_joins_the_bitmaps(blobs: np.ndarray) -> None:
    def sample(rows: list[int]) -> tuple[np.ndarray, Target]:
        count = len(rows)
        target = Target(
            image_id=0,
            original_size=(40, 60),
            boxes=np.zeros((count, 4), np.float32),
            labels=np.zeros(count, np.int64),
            is_crowd=np.zeros(count, bool),
            masks=[cropped(blobs[row]) for row in rows],
        )
        return np.zeros((40, 60, 3), np.uint8), target

    batch = collate([sample([0, 10, 4]), sample([]), sample([2])], Preprocessing(short_side=None))
    assert batch.mask_pixels is not None and batch.mask_places is not None
    assert batch.mask_places.shape == (3, 3, 5)
    for image, column, row in ((0, 0, 0), (0, 2, 4), (2, 0, 2)):
        start, left, top, width, height = batch.mask_places[image, column].tolist()
        bitmap = batch.mask_pixels[start : start + width * height].view(height, width).numpy()
        assert (bitmap == blobs[row, top : top + height, left : left + width]).all()
        assert bitmap.sum() == blobs[row].sum()
    assert batch.mask_places[0, 1, 3] == 0  # the empty mask
    assert not batch.mask_places[1].any()


def test_data_without_masks_says_so_before_training() -> None:
    with pytest.raises(
        ValueError, match="needs a mask for each object, which SingleDigitsData does not have"
    ):
        DataModule(SingleDigitsData(), Preprocessing(), masks=True)
    module = DataModule(DigitsData(num_train=2, num_val=1, num_test=1), Preprocessing(), masks=True)
    split = module.source.split("train")
    split.annotations.segmentations = None
    with pytest.raises(ValueError, match="the train split has boxes but no masks.*task=detection"):
        module.split("train")
