import numpy as np
import pytest
import torch

from tasks.visualization.boxes import class_color, draw_detections, picture_sheet

NAMES = ["cat", "dog", "a rather long name of a class"]


def plain(height: int, width: int, value: int = 128) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def has_color(image: np.ndarray, color: tuple[int, int, int]) -> np.ndarray:
    return (image == np.array(color, np.uint8)).all(axis=2)


def test_lines_lie_on_the_edges_of_the_box():
    image = plain(480, 640)
    drawn = draw_detections(image, [[100, 200, 300, 400]], [1], [0.9], NAMES)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 128).all(), "the given image stays as it was"
    color = class_color(1)
    line = has_color(drawn, color)
    assert line[399, 100:300].all()
    assert line[200:400, 100].all()
    assert line[200:400, 299].all()
    assert (drawn[210:390, 110:290] == 128).all(), "the object stays visible"
    assert (drawn[405:] == 128).all()
    assert line[180:199].any(), "the name stands on the box"
    assert (drawn[170:199, 100:200] == 255).all(axis=2).any(), "with letters in it"


def test_scores_under_the_threshold_padding_and_nan_are_left_out():
    image = plain(480, 640)
    boxes = torch.tensor([[10.0, 50, 90, 90], [10, 50, 90, 90], [0, 0, 0, 0], [10, float("nan"), 90, 90]])
    scores = torch.tensor([0.5, 0.49, 0.0, 0.9])
    labels = torch.tensor([0, 1, -1, 1])
    drawn = draw_detections(image, boxes, labels, scores, NAMES)
    assert has_color(drawn, class_color(0)).any()
    assert not has_color(drawn, class_color(1)).any()
    everything = draw_detections(image, boxes, labels, scores, NAMES, score_threshold=0)
    assert has_color(everything, class_color(1)).any()


def test_no_detections_leave_the_image_as_it_is():
    image = plain(480, 640)
    np.testing.assert_array_equal(draw_detections(image, np.zeros((0, 4)), [], [], NAMES), image)


def test_small_images_are_enlarged_by_a_whole_factor():
    drawn = draw_detections(plain(192, 192), [[20, 60, 80, 120]], [0], [0.9], NAMES)
    assert drawn.shape == (576, 576, 3)
    assert has_color(drawn, class_color(0))[359, 60:240].all(), "boxes are enlarged with the image"
    assert draw_detections(plain(8, 700), [], [], [], NAMES).shape == (16, 1400, 3)
    assert draw_detections(plain(1, 1), [[0, 0, 1, 1]], [0], [1.0], NAMES).shape == (400, 400, 3)


@pytest.mark.parametrize(
    "box", [[0, 0, 30, 30], [600, 0, 640, 30], [610, 450, 640, 480], [0, 450, 20, 480], [0, 0, 640, 480]]
)
def test_names_stay_inside_the_picture(box):
    """The whole name is seen in any corner: as many pixels of its letters as in the middle."""
    in_the_middle = letters(draw_detections(plain(480, 640), [[300, 200, 380, 280]], [2], [0.9], NAMES))
    assert letters(draw_detections(plain(480, 640), [box], [2], [0.9], NAMES)) == in_the_middle > 500


def letters(drawn: np.ndarray) -> int:
    """Pixels that mix the black of the writing with the yellow behind it."""
    blend = drawn.astype(int)
    yellow = np.array(class_color(2))
    share = blend[..., 0] / yellow[0]
    return int(
        ((abs(blend - share[..., None] * yellow).max(axis=2) < 2) & (share > 0.1) & (share < 0.9)).sum()
    )


def test_a_name_wider_than_the_picture_is_cut():
    draw_detections(plain(900, 400), [[10, 200, 300, 300]], [0], [0.9], ["x" * 500])
    draw_detections(plain(900, 400), [[10, 200, 300, 300]], [0], [0.9], ["two\nlines"])


def test_boxes_partly_outside_are_cut_and_others_left_out():
    boxes = [
        [-50, -50, 900, 900],
        [700, 500, 900, 600],
        [50, 50, 50, 50],
        [80, 80, 20, 20],
    ]  # the last is turned over
    drawn = draw_detections(plain(480, 640), boxes, [0, 1, 0, 1], [0.9, 0.8, 0.7, 0.6], NAMES)
    line = has_color(drawn, class_color(0))
    assert line[479].all()
    assert line[100:, 639].all()
    only_outside = draw_detections(
        plain(480, 640), [[700, 500, 900, 600], [9, -9, 99, 0]], [0, 1], [1, 1], NAMES
    )
    assert (only_outside == 128).all()


def test_names_of_overlapping_boxes_do_not_cover_each_other():
    drawn = draw_detections(plain(480, 640), [[200, 200, 300, 300]] * 2, [0, 1], [0.9, 0.8], NAMES)
    filled = [int(has_color(drawn, class_color(label)).sum()) for label in (0, 1)]
    alone = draw_detections(plain(480, 640), [[200, 200, 300, 300]], [1], [0.8], NAMES)
    only_the_name = filled[1] > 0.3 * has_color(alone, class_color(1)).sum()
    assert only_the_name
    assert filled[0] > filled[1], "the better one has its lines on top"


@pytest.mark.parametrize("value", [0, 255])
def test_truth_is_dashed_in_black_and_white(value):
    drawn = draw_detections(
        plain(480, 640, value),
        np.zeros((0, 4)),
        [],
        [],
        NAMES,
        gt_boxes=[[100, 100, 300, 300], [0] * 4],
        gt_labels=[0, -1],
    )
    edge = drawn[299, 100:300]
    white, black = (edge == 255).all(axis=1).mean(), (edge == 0).all(axis=1).mean()
    assert white + black == 1
    assert 0.4 < white < 0.6
    name = drawn[301:325, 100:150]
    assert (name == 255).any(), "the name stands below"
    assert (name == 0).any()
    assert (drawn[:95] == value).all()


def test_colors_of_classes_are_all_different():
    colors = np.array([class_color(label) for label in range(200)])
    assert len({tuple(color) for color in colors.tolist()}) == 200
    assert colors.min() >= 0
    assert colors.max() <= 255
    distances = np.linalg.norm(colors[:18, None] - colors[None, :18], axis=2) + 999 * np.eye(18)
    assert distances.min() > 50


@pytest.mark.parametrize(
    ("num", "rows", "columns"), [(1, 1, 1), (2, 1, 2), (3, 1, 3), (4, 2, 2), (8, 2, 4), (9, 3, 3)]
)
def test_sheet_lays_images_out_in_rows(num, rows, columns):
    images = [plain(40, 60, 10 * i) for i in range(num)]
    sheet = picture_sheet(images)
    assert sheet.shape == (8 + rows * 48, 8 + columns * 68, 3)
    for i in range(num):
        top, left = 8 + i // columns * 48, 8 + i % columns * 68
        assert (sheet[top : top + 40, left : left + 60] == 10 * i).all()


def test_sheet_keeps_shapes_and_its_limit():
    sheet = picture_sheet([plain(400, 100, 0), plain(100, 400, 0), plain(2, 2, 0)], max_side=300)
    assert max(sheet.shape) <= 300
    dark = (sheet == 0).all(axis=2)
    rows, columns = np.nonzero(dark[:, : sheet.shape[1] // 3])
    assert np.ptp(rows) + 1 == pytest.approx(4 * (np.ptp(columns) + 1), rel=0.1)


def test_what_is_no_image_is_refused():
    with pytest.raises(
        ValueError, match=r"must be uint8 of shape \(height, width, 3\); got float64 \(4, 4, 3\)"
    ):
        draw_detections(np.zeros((4, 4, 3)), [], [], [], NAMES)
    with pytest.raises(ValueError, match="must be uint8"):
        picture_sheet([np.zeros((3, 4), np.uint8)])
    with pytest.raises(ValueError, match="got no images"):
        picture_sheet([])
