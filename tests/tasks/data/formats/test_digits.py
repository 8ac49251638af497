import numpy as np
import pytest
from pycocotools import mask as coco_mask
from sklearn.datasets import load_digits, load_sample_images

from tasks.data.formats import digits
from tasks.data.formats.digits import (
    MAX_OVERLAP,
    MIN_CONTRAST,
    DigitsData,
    choose_colour,
    draw_scene,
    mask_boxes,
    material,
    upscale,
)

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def source() -> DigitsData:
    return DigitsData(num_train=40, num_val=30, num_test=20, masks=True)


def test_sizes_and_counts(source: DigitsData) -> None:
    assert source.class_names == list("0123456789")
    assert [len(source.split(name)) for name in SPLITS] == [40, 30, 20]
    split = source.split("train")
    assert split.image(0).shape == (192, 192, 3)
    assert split.image(0).dtype == np.uint8
    counts = np.diff(split.annotations.offsets)
    assert counts.min() >= 2
    assert counts.max() <= 7
    assert set(split.annotations.labels) == set(range(10))
    longest = split.annotations.boxes[:, 2:].max(axis=1)
    assert longest.min() >= 14  # a digit of 24 px, partly covered
    assert 60 <= longest.max() <= 74


def test_boxes_are_tight_around_the_masks_and_inside(source: DigitsData) -> None:
    annotations = source.split("val").annotations
    assert annotations.ids.min() == 1
    for index, (box, area) in enumerate(zip(annotations.boxes, annotations.areas, strict=True)):
        rle = annotations.segmentation(index)
        assert isinstance(rle, dict)
        assert coco_mask.toBbox(rle).tolist() == box.tolist()
        assert coco_mask.area(rle) == area > 0
    for index in range(len(annotations)):
        boxes = annotations.target(index).boxes
        assert boxes.min() >= 0
        assert boxes.max() <= 192


def test_instances_share_no_pixel_and_little_of_their_boxes() -> None:
    glyphs, labels, photographs = material("train")
    for seed in range(20):
        scene = draw_scene(np.random.default_rng(seed), 192, glyphs, labels, photographs)
        assert scene.masks.sum(axis=0).max() == 1
        boxes = mask_boxes(scene.masks).astype(float)
        crossings = coco_mask.iou(boxes, boxes, [0] * len(boxes))
        np.fill_diagonal(crossings, 0)
        assert crossings.max() <= MAX_OVERLAP  # of the smaller, so certainly of the union


def test_the_seed_determines_everything_and_scenes_do_not_depend_on_their_number() -> None:
    first = DigitsData(num_train=6, num_val=3, num_test=3).split("train")
    again = DigitsData(num_train=4, num_val=3, num_test=3).split("train")
    other = DigitsData(num_train=4, num_val=3, num_test=3, seed=1).split("train")
    np.testing.assert_array_equal(first.images[:4], again.images)
    np.testing.assert_array_equal(first.annotations.target(3).boxes, again.annotations.target(3).boxes)
    assert (first.images[:4] != other.images).any(axis=(1, 2, 3)).all()
    assert (first.images[0] != first.images[1]).any()


def test_scenes_of_the_splits_differ() -> None:
    source = DigitsData(num_train=2, num_val=2, num_test=2)
    assert (source.split("train").images != source.split("val").images).any(axis=(1, 2, 3)).all()


def test_splits_share_no_handwriting_and_no_photograph() -> None:
    writing = [{glyph.tobytes() for glyph in material(name)[0]} for name in SPLITS]
    assert [len(part) for part in writing] == [1078, 360, 359]
    assert not writing[0] & writing[1] | writing[0] & writing[2] | writing[1] & writing[2]
    for index, photograph in enumerate(load_sample_images().images):
        strips = [material(name)[2][index] for name in SPLITS]
        np.testing.assert_array_equal(np.concatenate(strips, axis=1), photograph)


def test_looking_at_an_image_does_not_change_it(source: DigitsData) -> None:
    split = source.split("val")
    split.image(0)[:] = 0
    assert split.image(0).any()
    assert source.split("val") is split


def test_digits_are_as_large_as_asked_for() -> None:
    glyphs = material("train")[0]
    heights = [upscale(glyph, 64).shape[0] for glyph in glyphs[:50]]
    assert 56 <= np.mean(heights) <= 68


def test_colours_stand_out() -> None:
    generator = np.random.default_rng(0)
    for grey in range(0, 256, 15):
        behind = np.full((10, 3), float(grey))
        for _ in range(20):
            colour = choose_colour(generator, behind)
            assert abs(colour @ [0.299, 0.587, 0.114] - grey) >= MIN_CONTRAST


def test_a_smaller_scene_has_smaller_digits() -> None:
    annotations = DigitsData(size=96, num_train=10, num_val=1, num_test=1).split("train").annotations
    assert annotations.sizes.tolist() == [[96, 96]] * 10
    assert annotations.boxes[:, 2:].max() <= 38
    assert annotations.segmentations is None


def test_options() -> None:
    with pytest.raises(ValueError, match=r"data\.size=8 must be at least 64 pixels"):
        DigitsData(size=8)
    with pytest.raises(ValueError, match=r"data\.num_val=0"):
        DigitsData(num_val=0)


def test_scikit_learns_files_are_what_it_loads() -> None:
    scans, labels, photographs = digits._scikit_learns_files()
    expected, targets = load_digits(return_X_y=True)
    assert np.array_equal(scans, expected) and scans.dtype == expected.dtype
    assert np.array_equal(labels, targets) and labels.dtype == targets.dtype
    for photograph, other in zip(photographs, load_sample_images().images, strict=True):
        assert np.array_equal(photograph, other)
