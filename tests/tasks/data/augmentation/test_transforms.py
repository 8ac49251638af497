import os
import subprocess
import sys

import albumentations as A
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.data.augmentation.geometry import scale_boxes
from tasks.data.augmentation.pipeline import Augmentation, flip
from tasks.targets import Target
from tests.tasks.data.coco_on_disk import picture

HEIGHT, WIDTH = 40, 60


def target(boxes: list[list[float]], size: tuple[int, int] = (HEIGHT, WIDTH)) -> Target:
    rows = len(boxes)
    return Target(
        image_id=7,
        original_size=size,
        boxes=np.array(boxes, np.float32).reshape(-1, 4),
        labels=np.arange(rows),
        is_crowd=np.arange(rows) % 2 == 1,
    )


def test_nothing_changes_nothing() -> None:
    image, found = picture(HEIGHT, WIDTH), target([[1, 2, 3, 4]])
    augmentation = Augmentation()
    assert not augmentation
    assert augmentation(image, found, (0, 0, 0)) == (image, found)


def test_flip_by_hand() -> None:
    image, found = flip(picture(HEIGHT, WIDTH), target([[0, 5, 10, 20], [59.5, 0, 60, 40]]))
    np.testing.assert_array_equal(image, picture(HEIGHT, WIDTH)[:, ::-1])
    assert found.boxes.tolist() == [[50, 5, 60, 20], [0, 0, 0.5, 40]]


def test_our_flip_is_albumentations(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [[0, 5, 10, 20], [30.3, 1.7, 60, 40]]
    ours = Augmentation([A.HorizontalFlip(p=1)])(picture(HEIGHT, WIDTH), target(boxes), (0,))
    theirs = Augmentation([A.Sequential([A.HorizontalFlip(p=1)], p=1)])(
        picture(HEIGHT, WIDTH), target(boxes), (0,)
    )
    np.testing.assert_array_equal(ours[0], theirs[0])
    np.testing.assert_allclose(ours[1].boxes, theirs[1].boxes, atol=1e-4)
    np.testing.assert_array_equal(ours[1].labels, theirs[1].labels)


def test_flip_keeps_its_place_among_others() -> None:
    crop = A.Crop(x_min=0, y_min=0, x_max=20, y_max=40)
    first, then = A.HorizontalFlip(p=1), crop
    image, found = Augmentation([first, then])(
        picture(HEIGHT, WIDTH), target([[0, 0, 10, 10], [50, 0, 60, 9]]), (0,)
    )
    np.testing.assert_array_equal(image, picture(HEIGHT, WIDTH)[:, ::-1][:, :20])
    assert found.labels.tolist() == [1]
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 9]], atol=1e-4)
    image, found = Augmentation([then, first])(
        picture(HEIGHT, WIDTH), target([[0, 0, 10, 10], [50, 0, 60, 9]]), (0,)
    )
    np.testing.assert_array_equal(image, picture(HEIGHT, WIDTH)[:, :20][:, ::-1])
    assert found.labels.tolist() == [0]
    np.testing.assert_allclose(found.boxes, [[10, 0, 20, 10]], atol=1e-4)


def test_flip_happens_as_often_as_asked() -> None:
    image, augmentation = picture(4, 4), Augmentation([A.HorizontalFlip(p=0.3)])
    flipped = [(augmentation(image, target([]), (0, 0, i))[0] != image).any() for i in range(1000)]
    assert 250 < sum(flipped) < 350


def test_crop_clips_and_drops() -> None:
    crop = Augmentation([A.Crop(x_min=10, y_min=0, x_max=60, y_max=40)])
    boxes = [[0, 0, 10.5, 20], [0, 0, 20, 20], [8, 0, 18, 10], [30, 10, 40, 20]]
    image, found = crop(picture(HEIGHT, WIDTH), target(boxes), (0,))
    assert image.shape == (40, 50, 3)
    assert found.labels.tolist() == [1, 2, 3]  # of the first, 5 % were left
    assert found.is_crowd.tolist() == [True, False, True]
    np.testing.assert_allclose(found.boxes, [[0, 0, 10, 20], [0, 0, 8, 10], [20, 10, 30, 20]], atol=1e-4)
    assert found.boxes.dtype == np.float32
    assert found.labels.dtype == np.int64
    assert (found.image_id, found.original_size) == (7, (HEIGHT, WIDTH))


STRONG = [
    A.RandomSizedBBoxSafeCrop(height=32, width=48, p=0.5),
    A.RandomCrop(height=24, width=24, p=0.5),
    A.HorizontalFlip(),
    A.Affine(rotate=(-20, 20), scale=(0.5, 1.5), p=0.7),
    A.ColorJitter(),
    A.RandomScale((-0.5, 0.5), p=0.5),
]


@st.composite
def scenes(draw: st.DrawFn) -> tuple[np.ndarray, Target]:
    height, width = draw(st.integers(24, 70)), draw(st.integers(24, 70))
    dust = st.sampled_from([0.0, 1e-6, 0.3, 1 / 3])
    boxes = []
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.integers(0, width - 1)) + draw(dust), draw(st.integers(0, height - 1)) + draw(dust)
        w, h = draw(st.floats(0.2, width)), draw(st.floats(0.2, height))
        boxes.append([x, y, min(x + w, width), min(y + h, height)])
    return picture(height, width), target(boxes, (height, width))


@settings(max_examples=60, deadline=None)
@given(scenes(), st.integers(0, 2**32))
def test_boxes_stay_inside_and_runs_repeat(scene: tuple[np.ndarray, Target], seed: int) -> None:
    augmentation = AUGMENTATION
    image, found = augmentation(*scene, (seed, 0, 1))
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
    assert np.isfinite(found.boxes).all()
    assert len(found.boxes) == len(found.labels) == len(found.is_crowd) <= len(scene[1].boxes)
    limits = np.array([image.shape[1], image.shape[0]] * 2)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= limits).all()
    assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
    augmentation(picture(50, 50), target([], (50, 50)), (seed, 5, 5))  # what comes between must not matter
    again_image, again = augmentation(*scene, (seed, 0, 1))
    np.testing.assert_array_equal(image, again_image)
    np.testing.assert_array_equal(found.boxes, again.boxes)


AUGMENTATION = Augmentation(STRONG)


def test_epochs_and_images_differ() -> None:
    augmentation = Augmentation([A.ColorJitter(p=1)])
    image = picture(8, 8)
    results = {
        augmentation(image, target([]), seed)[0].tobytes()
        for seed in [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    }
    assert len(results) == 4


@pytest.mark.parametrize("transform", [A.Normalize(), A.ToGray(num_output_channels=1, p=1), A.ToTensorV2()])
def test_transforms_that_leave_uint8_rgb_are_refused(transform: A.BasicTransform) -> None:
    with pytest.raises(ValueError, match=r"wanted uint8 \(height, width, 3\): leave out normalising"):
        Augmentation([transform])(picture(8, 8), target([]), (0,))


def test_something_else_than_a_transform_is_refused() -> None:
    with pytest.raises(ValueError, match="augmentation 'flip' is no transform; wanted albumentations"):
        Augmentation(["flip"])  # type: ignore[list-item]


def test_scale_boxes() -> None:
    found = scale_boxes(target([[3, 4, 6, 8]]), (HEIGHT, WIDTH), (80, 30))
    assert found.boxes.tolist() == [[1.5, 8, 3, 16]]
    assert found.boxes.dtype == np.float32


def test_importing_asks_no_network_and_no_augmentation_costs_no_import() -> None:
    code = (
        "import os, sys, tasks.data.augmentation.pipeline as t; t.Augmentation()\n"
        "assert 'albumentations' not in sys.modules and os.environ['NO_ALBUMENTATIONS_UPDATE'] == '1'"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_a_configuration_that_names_a_transform_asks_no_network() -> None:
    """Nothing else of the project has been imported before."""
    code = (
        "import socket, sys\n"
        "def asked(*arguments):\n"
        "    print('asked', *arguments[:1]); raise OSError\n"
        "socket.getaddrinfo = asked\n"
        "from tasks.cli.targets import find\n"
        "find('albumentations.HorizontalFlip')\n"
        "assert 'albumentations' in sys.modules"
    )
    environment = {key: value for key, value in os.environ.items() if key != "NO_ALBUMENTATIONS_UPDATE"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
