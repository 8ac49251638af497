"""Class maps: painted from objects, carried through augmentation, resizing and batching."""

import albumentations as A
import numpy as np
import pytest
import torch

from tasks.data.annotations.class_maps import ClassMaps, paint
from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.segmentations import Segmentations
from tasks.data.augmentation.geometry import scale_boxes
from tasks.data.augmentation.pipeline import Augmentation, flip
from tasks.data.datamodule import DataModule
from tasks.data.formats.coco import CocoData
from tasks.data.formats.digits import DigitsData, SingleDigitsData
from tasks.data.loading.collate import collate
from tasks.preprocessing import Preprocessing
from tasks.targets import IGNORE_LABEL, Target


def square(x: int, y: int, side: int) -> list[list[float]]:
    return [[float(v) for v in (x, y, x + side, y, x + side, y + side, x, y + side)]]


def annotations(objects: list[tuple], size: tuple[int, int] = (20, 30)) -> Annotations:
    """Of one image; objects are (label, x, y, side, is_crowd, has a mask)."""
    columns = list(zip(*objects, strict=True)) or [()] * 6
    labels, x, y, sides, crowd, has_mask = columns
    return Annotations(
        class_names=["cat", "dog"],
        category_ids=np.array([3, 17]),
        image_ids=np.array([5]),
        file_names=np.array([b"a.png"]),
        sizes=np.array([size], np.int32),
        offsets=np.array([0, len(objects)]),
        ids=np.arange(1, len(objects) + 1),
        labels=np.array(labels, np.int64),
        boxes=np.array([x, y, sides, sides], np.float64).T.reshape(-1, 4),
        areas=np.array(sides, np.float64) ** 2,
        is_crowd=np.array(crowd, bool),
        segmentations=Segmentations.from_objects(
            square(*place) if known else None for *place, known in zip(x, y, sides, has_mask, strict=True)
        ),
    )


def test_smaller_objects_lie_on_larger_ones_whatever_their_order() -> None:
    small, large = (1, 4, 4, 5, False, True), (0, 2, 2, 12, False, True)
    for objects in ([small, large], [large, small]):
        class_map = paint(annotations(objects), 0)
        assert class_map.dtype == np.uint8
        assert class_map.shape == (20, 30)
        assert (class_map == 2).sum() == 25
        assert (class_map == 1).sum() == 144 - 25
        assert (class_map == 0).sum() == 600 - 144
        assert (class_map[4:9, 4:9] == 2).all()


def test_equally_large_ones_lie_in_the_order_of_the_file() -> None:
    class_map = paint(annotations([(0, 2, 2, 6, False, True), (1, 4, 4, 6, False, True)]), 0)
    assert (class_map == 2).sum() == 36
    assert (class_map == 1).sum() == 36 - 16


def test_crowds_are_ignored_but_for_objects_on_them() -> None:
    class_map = paint(annotations([(0, 3, 3, 4, False, True), (0, 0, 0, 20, True, True)]), 0)
    assert (class_map[3:7, 3:7] == 1).all()
    assert (class_map == IGNORE_LABEL).sum() == 400 - 16


def test_the_box_of_an_object_without_mask_is_ignored() -> None:
    class_map = paint(annotations([(1, 25, 15, 9, False, False), (0, 0, 0, 3, False, True)]), 0)
    assert (class_map[15:, 25:] == IGNORE_LABEL).all()
    assert (class_map == IGNORE_LABEL).sum() == 5 * 5
    assert (class_map == 1).sum() == 9


def test_an_image_without_objects_is_background() -> None:
    assert not paint(annotations([]), 0).any()


def test_coco_files_become_class_maps(coco_root) -> None:
    """Polygons, both kinds of run lengths, a crowd, an object without mask, EXIF rotation."""
    source = CocoData(coco_root).with_class_maps()
    assert source.class_names == ["background", "ant", "cat", "zebra"]
    assert source.category_ids.tolist() == [2, 3, 17, 90]
    split = source.split("train")
    for index in range(len(split)):
        target = split.annotations.target(index)
        assert target.class_map is not None
        assert target.class_map.shape == split.image(index).shape[:2] == target.original_size
    plain, rotated, grey, trees = (split.annotations.target(i).class_map for i in range(4))
    assert plain is not None and rotated is not None and grey is not None and trees is not None
    # the run lengths of object 9 are those of the crowd, and the object lies on it
    assert (plain[5:20, 10:50] == 1).all()
    assert plain.astype(bool).sum() == 15 * 40
    assert (rotated == IGNORE_LABEL).sum() == 10 * 18  # a box alone
    assert not grey.any()
    assert set(np.unique(trees)) == {0, 3}


def test_coco_without_masks_says_so(tmp_path, coco_root) -> None:
    source = CocoData(coco_root).with_class_maps()
    with pytest.raises(ValueError, match="the val split has boxes but no masks.*use data with masks"):
        source.split("val")


def test_the_source_itself_stays_as_it_was(coco_root) -> None:
    source = CocoData(coco_root)
    source.with_class_maps().split("train")
    assert source.masks is False
    assert source.split("train").annotations.segmentations is None


def test_digits_agree_with_their_masks() -> None:
    source = DigitsData(size=64, num_train=2, masks=True)
    painted = source.with_class_maps().split("train")
    assert painted.annotations.class_names == ["background", *map(str, range(10))]
    assert painted.annotations.category_ids.tolist() == list(range(-1, 10))
    objects = source.split("train").annotations
    for index in range(2):
        class_map = painted.annotations.target(index).class_map
        assert class_map is not None
        rows = slice(objects.offsets[index], objects.offsets[index + 1])
        assert (class_map > 0).sum() == objects.areas[rows].sum()
        assert set(np.unique(class_map)) == {0, *(objects.labels[rows] + 1)}


def test_data_without_pixels_of_classes_says_so() -> None:
    with pytest.raises(
        ValueError, match="SingleDigitsData does not have; use masks beside images.*data=coco"
    ):
        DataModule(SingleDigitsData(), Preprocessing(), class_maps=True)  # type: ignore[arg-type]


def test_more_classes_than_a_byte_holds() -> None:
    with pytest.raises(ValueError, match="256 classes; a class map.*at most 255"):
        ClassMaps(
            [str(i) for i in range(256)],
            np.arange(256),
            np.arange(0),
            np.array([]),
            lambda index: np.zeros(0),
        )


def target(class_map: np.ndarray) -> Target:
    return Target(
        image_id=1,
        original_size=class_map.shape,  # type: ignore[arg-type]
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        is_crowd=np.zeros(0, bool),
        class_map=class_map,
    )


def colored() -> tuple[np.ndarray, np.ndarray]:
    """An image whose red channel is its class map times ten."""
    class_map = (
        np.random.default_rng(0).integers(0, 20, (5, 8)).repeat(8, axis=0).repeat(8, axis=1).astype(np.uint8)
    )
    return np.stack([class_map * 10] * 3, axis=2), class_map


def test_flip_takes_the_map_along() -> None:
    image, class_map = colored()
    flipped, found = flip(image, target(class_map))
    assert found.class_map is not None
    np.testing.assert_array_equal(found.class_map * 10, flipped[:, :, 0])


@pytest.mark.parametrize(
    "transform",
    [
        A.Crop(x_min=3, y_min=5, x_max=40, y_max=30),
        A.RandomCrop(height=60, width=80, pad_if_needed=True),
        A.PadIfNeeded(min_height=90, min_width=90),
        A.Sequential([A.OneOf([A.Affine(translate_px=(9, 9), p=1)], p=1)], p=1),
        A.Transpose(p=1),
    ],
    ids=lambda transform: type(transform).__name__,
)
def test_pixels_and_classes_move_together_and_what_is_added_is_ignored(transform) -> None:
    image, class_map = colored()
    image = image + 5  # no pixel of the image is as black as what is added
    moved, found = Augmentation([transform])(image, target(class_map), (0, 0, 0))
    assert found.class_map is not None
    added = moved[:, :, 0] == 0
    assert (found.class_map[added] == IGNORE_LABEL).all()
    np.testing.assert_array_equal(found.class_map[~added] * 10 + 5, moved[:, :, 0][~added])


def test_rotation_makes_no_new_classes() -> None:
    image, class_map = colored()
    class_map[class_map % 2 == 1] = 0
    _, found = Augmentation([A.Rotate(limit=(30, 30), p=1)])(image, target(class_map), (0, 0, 0))
    assert found.class_map is not None
    assert set(np.unique(found.class_map)) <= {*np.unique(class_map), IGNORE_LABEL}
    assert (found.class_map == IGNORE_LABEL).mean() > 0.1  # the corners


def test_colours_leave_the_map_alone() -> None:
    image, class_map = colored()
    _, found = Augmentation([A.RandomBrightnessContrast(p=1)])(image, target(class_map), (0, 0, 0))
    np.testing.assert_array_equal(found.class_map, class_map)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(80, 128), (20, 32), (61, 47), (40, 64)])
def test_resizing_takes_the_class_of_the_nearest_pixel(size: tuple[int, int]) -> None:
    class_map = np.random.default_rng(0).integers(0, 20, (40, 64), dtype=np.uint8)
    found = scale_boxes(target(class_map), class_map.shape, size).class_map  # type: ignore[arg-type]
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(size, class_map.shape, strict=True)
    )
    expected = class_map[np.ix_(rows, columns)]
    assert found is not None
    assert found.dtype == np.uint8
    assert (found == expected).mean() > 0.97  # centres between two pixels may go either way


def test_batches_are_padded_with_what_is_ignored() -> None:
    small, large = np.full((10, 20), 3, np.uint8), np.full((30, 8), 4, np.uint8)
    samples = [(np.zeros((*m.shape, 3), np.uint8), target(m)) for m in (small, large)]
    batch = collate(samples, Preprocessing())
    assert batch.class_maps is not None
    assert batch.class_maps.dtype == torch.uint8
    assert batch.class_maps.shape == (2, 32, 32)
    assert (batch.class_maps[0, :10, :20] == 3).all()
    assert (batch.class_maps == IGNORE_LABEL).sum() == 2 * 32 * 32 - 200 - 240
    assert batch.to("cpu").class_maps is not None
    assert collate([(np.zeros((4, 4, 3), np.uint8), objects_only())], Preprocessing()).class_maps is None


def objects_only() -> Target:
    without = target(np.zeros((4, 4), np.uint8))
    without.class_map = None
    return without


def test_the_loader_yields_bytes_at_network_size() -> None:
    data = DataModule(
        DigitsData(size=64, num_train=4), Preprocessing(short_side=96), batch_size=2, class_maps=True
    )
    batch = next(iter(data.train_dataloader()))
    assert batch.class_maps.dtype == torch.uint8
    assert batch.class_maps.shape == (2, 96, 96)
    assert batch.original_sizes.tolist() == [[64, 64]] * 2
    assert data.class_names[0] == "background"
