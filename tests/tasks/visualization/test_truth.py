"""What is annotated, drawn beside what was found."""

import numpy as np

from tasks.data.annotations.class_maps import ClassMaps
from tasks.data.annotations.image_labels import ImageLabels
from tasks.data.formats.digits import DigitsData
from tasks.visualization.boxes import draw_detections, draw_outcomes
from tasks.visualization.sheet import spread
from tasks.visualization.truth import beside, draw_truth, marked


def test_images_are_spread_over_the_split() -> None:
    assert spread(100, 5) == [0, 25, 50, 74, 99]
    assert spread(3, 8) == [0, 1, 2] and spread(0, 8) == []


def test_boxes_and_masks_are_drawn_and_the_image_stays() -> None:
    source = DigitsData(num_train=1, num_val=1, num_test=1, size=96)
    plain, with_masks = source.split("val"), source.with_masks().split("val")
    image = plain.image(0)
    before = image.copy()
    boxes, masks = (draw_truth(image, split.annotations, 0) for split in (plain, with_masks))
    assert boxes is not None and masks is not None
    assert boxes.shape == masks.shape and (boxes != masks).any()
    np.testing.assert_array_equal(image, before)


def test_class_maps_and_labels() -> None:
    image = np.full((100, 80, 3), 90, np.uint8)
    names = ["background", "cell"]
    ids = np.array([7])
    maps = ClassMaps(names, np.arange(2), ids, np.array([b"a"]), lambda i: np.ones((100, 80), np.uint8))
    assert draw_truth(image, maps, 0) is not None
    labels = ImageLabels(names, np.arange(2), ids, np.array([1]), np.array([b"a"]))
    assert draw_truth(image, labels, 0) is not None
    assert draw_truth(image, type("Other", (), {"class_names": names})(), 0) is None


def test_a_crowd_looks_unlike_an_object() -> None:
    image = np.full((400, 400, 3), 90, np.uint8)
    one, none = np.array([[50.0, 50, 350, 350]]), np.zeros(0)
    drawn = [
        draw_detections(
            image, np.zeros((0, 4)), none, none, ["a"], gt_boxes=one, gt_labels=[0], gt_is_crowd=[crowd]
        )
        for crowd in (False, True)
    ]
    assert (drawn[0] != drawn[1]).any()


def test_right_and_wrong_have_their_colours() -> None:
    image = np.full((400, 400, 3), 90, np.uint8)
    boxes = np.array([[20.0, 60, 120, 160], [200, 60, 300, 160]])
    drawn = draw_outcomes(
        image, boxes, ["a 0.9", "b 0.8 background"], [True, False], np.array([[20.0, 300, 80, 380]])
    )
    assert tuple(drawn[110, 21]) == (60, 180, 75) and tuple(drawn[110, 201]) == (230, 25, 75)
    assert (drawn[300:303, 20:80] == 255).any()
    assert tuple(marked(image, True)[0, 0]) == (60, 180, 75) and tuple(marked(image, False)[0, 0]) == (
        230,
        25,
        75,
    )


def test_wide_images_are_above_each_other() -> None:
    wide, tall = np.zeros((50, 200, 3), np.uint8), np.zeros((200, 50, 3), np.uint8)
    assert beside(wide, wide).shape == (104, 200, 3)
    assert beside(tall, tall).shape == (200, 104, 3)
