"""Large pictures in tiles: no object lost, none twice, whatever tiles cut."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from tasks.contracts import Batch, Detections, Model
from tasks.detection.result import Objects
from tasks.detection.tiles import cut_by_tile, cut_tiles, group_views, merge_tiles, overlaps
from tasks.inference.predictor import Predictor
from tasks.instance_segmentation.result import Instances, union
from tasks.preprocessing import Preprocessing
from tasks.targets import ObjectMask
from tasks.zoo.model_file import Header

SMALLEST = 12  # pixels that the detector below needs to see of an object


class BlobDetector(Model):
    """Finds bright squares in what reaches the network, if enough of their pixels are left there; red ones are of
    class 0, green ones of class 1. Draws a mask of each."""

    def __init__(self, task: str = "detection"):
        super().__init__()
        self.backbone = torch.nn.Identity()
        self.preprocessing = Preprocessing(short_side=320, max_size=320)
        self.header = Header(
            task=task,
            model={"name": "blobs", "nms_threshold": 0.5},
            class_names=["red", "green"],
            category_ids=[1, 2],
            preprocessing=self.preprocessing.to_dict(),
        )

    def features(self, batch: Batch) -> dict[str, Tensor]:
        return {"pixels": batch.images}

    def predictions(self, features: dict[str, Tensor], batch: Batch) -> Detections:
        rows = [self.blobs(image.numpy()) for image in features["pixels"]]
        most = max(1, *map(len, rows))
        found = Detections(
            torch.zeros(len(rows), most, 4),
            torch.zeros(len(rows), most),
            torch.full((len(rows), most), -1),
            torch.ones(len(rows), most, 28, 28) if self.header.task == "instance_segmentation" else None,
        )
        for i, image_rows in enumerate(rows):
            for j, (score, label, *box) in enumerate(sorted(image_rows, reverse=True)):
                found.boxes[i, j] = torch.tensor(box).float()
                found.scores[i, j], found.labels[i, j] = score, label
        return found

    def blobs(self, image: np.ndarray) -> list[tuple[float, ...]]:
        found = []
        for label in range(2):
            parts, _ = ndimage.label(image[label] > 120)
            for index, (rows, columns) in enumerate(ndimage.find_objects(parts), start=1):
                area = int((parts[rows, columns] == index).sum())
                if area >= SMALLEST:
                    score = area / (area + 20)  # larger ones with more certainty
                    found.append((score, label, columns.start, rows.start, columns.stop, rows.stop))
        return found


def scene(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A picture of `side` x `side` of squares of 8 to 70 pixels, none touching another, and two larger than the
    overlap of tiles and than tiles; their boxes and labels."""
    rng = np.random.default_rng(0)
    picture = np.full((side, side, 3), 40, np.uint8)
    boxes: list[tuple[int, int, int, int]] = []
    labels = []
    sizes = [3 * side // 8, 300, *rng.integers(8, 70, 15 * side**2 // 10**6).tolist()]
    while sizes:
        x, y = rng.integers(0, side - sizes[0], 2).tolist()
        box = (x, y, x + sizes[0], y + sizes[0])
        if any(x < b[2] + 30 and b[0] < box[2] + 30 and y < b[3] + 30 and b[1] < box[3] + 30 for b in boxes):
            continue
        label = int(rng.integers(2))
        picture[box[1] : box[3], box[0] : box[2], label] = 230
        boxes.append(box)
        labels.append(label)
        sizes.pop(0)
    return picture, np.array(boxes, np.float32), np.array(labels)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    everywhere = np.array([0, 0, 1e9, 1e9])
    return np.stack([overlaps(box, everywhere, b, np.tile(everywhere, (len(b), 1)))[0] for box in a])


@pytest.mark.parametrize("task", ["detection", "instance_segmentation"])
def test_tiles_find_every_small_object_once_where_the_whole_picture_loses_them(task: str) -> None:
    picture, boxes, labels = scene(4000 if task == "detection" else 2000)
    small = (boxes[:, 2] - boxes[:, 0]) < 100
    detector = BlobDetector(task)
    options = {"device": "cpu", "precision": "32-true"}
    whole = Predictor(detector, **options)(picture)
    tiled = Predictor(detector, tile=640, overlap=0.2, **options)(picture)
    matches = (iou(boxes, tiled.boxes) > 0.5) & (labels[:, None] == tiled.labels)
    in_whole = ((iou(boxes, whole.boxes) > 0.5) & (labels[:, None] == whole.labels)).any(axis=1)
    assert (
        0 < in_whole[small].mean() < (0.6 if task == "detection" else 0.9)
    )  # the scene is hard for the whole picture
    assert (matches.sum(axis=1) == 1).all()  # each object once, the two large ones included
    assert len(tiled) == len(boxes)  # and nothing else
    assert (np.diff(tiled.scores) <= 0).all()
    if task == "instance_segmentation":
        for i, mask in enumerate(tiled.bitmaps):
            x0, y0, x1, y1 = tiled.boxes[i]
            assert abs(int(mask.bitmap.sum()) - (x1 - x0) * (y1 - y0)) <= 0.25 * (x1 - x0) * (y1 - y0) + 40
            ys, xs = np.nonzero(mask.bitmap)
            ends = (mask.left + xs.min(), mask.top + ys.min(), mask.left + xs.max(), mask.top + ys.max())
            np.testing.assert_allclose(ends, tiled.boxes[i], atol=4 + 0.04 * (x1 - x0))
        assert tiled.size == picture.shape[:2]


def test_a_picture_no_larger_than_a_tile_is_predicted_as_ever() -> None:
    picture = scene(1000)[0][:600, :500]
    plain, tiled = (
        Predictor(BlobDetector(), device="cpu", tile=tile, precision="32-true")(picture)
        for tile in (None, 640)
    )
    assert len(plain)
    np.testing.assert_array_equal(plain.boxes, tiled.boxes)
    assert Predictor(BlobDetector(), device="cpu", tile=64)([]) == []


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), [
    (4000, 4000, 640, 0.2), (641, 100, 640, 0.0), (1000, 777, 300, 0.5), (37, 1200, 200, 0.25), (1000, 1000, 500, 0),
])  # fmt: skip
def test_tiles_cover_the_picture_and_share_the_overlap(
    height: int, width: int, tile: int, overlap: float
) -> None:
    regions = cut_tiles(height, width, tile, overlap)
    assert regions[-1].tolist() == [0, 0, width, height]
    tiles = regions[:-1]
    covered = np.zeros((height, width), bool)
    for left, top, right, bottom in tiles.tolist():
        assert (right - left, bottom - top) == (min(tile, width), min(tile, height))
        covered[top:bottom, left:right] = True
    assert covered.all()
    for axis, side in ((0, width), (1, height)):
        starts = sorted(set(tiles[:, axis].tolist()))
        assert all(a + tile - b >= overlap * tile for a, b in pairwise(starts))
        assert starts[-1] + min(tile, side) == side


def test_a_picture_of_the_size_of_a_tile_has_one_region() -> None:
    assert cut_tiles(640, 640, 640, 0.2).tolist() == [[0, 0, 640, 640]]
    assert cut_tiles(10, 20, 640, 0.2).tolist() == [[0, 0, 20, 10]]


REGIONS = np.array([[0, 0, 100, 100], [80, 0, 180, 100], [160, 0, 260, 100], [0, 0, 260, 100]])


def groups(*rows: tuple) -> list[list[int]]:
    """The groups of rows (view, score, label, x0, y0, x1, y1) in three tiles in a row that share 20 pixels each."""
    values = np.array(rows, np.float64).reshape(-1, 7)
    views, labels = values[:, 0].astype(int), values[:, 2].astype(int)
    found = group_views(values[:, 3:], labels, values[:, 1], views, REGIONS, 20)
    return [sorted(group) for group in found]


def test_an_object_that_two_tiles_see_whole_is_one() -> None:
    assert groups((0, 0.8, 0, 82, 10, 96, 24), (1, 0.9, 0, 83, 11, 96, 25)) == [[1]]
    assert groups((0, 0.8, 0, 82, 10, 96, 24), (1, 0.9, 1, 83, 11, 96, 25)) == [[1], [0]]  # of two classes


def test_what_a_tile_cuts_gives_way_to_what_another_sees_whole() -> None:
    """Although the part scores more, and overlaps the whole object by no more than a fifth."""
    assert groups((0, 0.9, 0, 92, 10, 100, 40), (1, 0.6, 0, 92, 10, 130, 40)) == [[1]]
    assert groups((0, 0.9, 0, 92, 10, 100, 40), (1, 0.6, 0, 92, 60, 130, 90)) == [[0], [1]]  # another object


def test_parts_that_no_view_shows_whole_become_one_object() -> None:
    rows = [(0, 0.5, 0, 60, 10, 100, 40), (1, 0.9, 0, 80, 11, 180, 40), (2, 0.7, 0, 160, 10, 200, 41)]
    assert groups(*rows) == [[0, 1, 2]]
    assert groups(*rows, (3, 0.4, 0, 61, 10, 199, 41)) == [[3]]  # but the whole picture shows it


def test_objects_beside_each_other_in_one_tile_stay_two() -> None:
    rows = [
        (0, 0.9, 0, 82, 10, 96, 24),
        (0, 0.8, 0, 86, 10, 98, 24),
    ]  # overlap by 0.6, which the model allowed
    assert groups(*rows) == [[0], [1]]
    assert len(groups(*rows, (1, 0.85, 0, 82, 10, 96, 24), (1, 0.7, 0, 86, 10, 98, 24))) == 2


def test_a_small_object_of_the_whole_picture_counts_only_where_no_tile_has_it() -> None:
    assert groups((0, 0.5, 0, 10, 10, 20, 20), (3, 0.9, 0, 14, 13, 26, 25)) == [
        [0]
    ]  # far off, as small ones are
    assert groups((0, 0.5, 0, 10, 10, 20, 20), (3, 0.9, 0, 40, 40, 52, 52)) == [[1], [0]]


def test_nothing_found_anywhere() -> None:
    nothing = Objects(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64), [])
    merged = merge_tiles([nothing] * 4, REGIONS, 20)
    assert len(merged) == 0
    assert merged.boxes.shape == (0, 4)
    empty = Instances(**vars(nothing), bitmaps=[], size=(100, 100))
    merged = merge_tiles([empty] * 4, REGIONS, 20)
    assert (len(merged), merged.size, merged.masks.shape) == (0, (100, 260), (0, 100, 260))


def test_boxes_at_the_edge_of_the_picture_are_not_cut() -> None:
    boxes = np.array(
        [[0, 0, 30, 30], [70, 10, 99.5, 30], [80, 10, 90, 30], [200, 0, 260, 100], [0, 0, 260, 100]]
    )
    assert cut_by_tile(boxes, np.array([0, 0, 1, 2, 3]), REGIONS).tolist() == [
        False,
        True,
        True,
        False,
        False,
    ]


def test_union_of_masks_by_hand() -> None:
    a = ObjectMask(2, 3, np.array([[1, 0], [1, 1]], np.uint8))
    b = ObjectMask(3, 2, np.array([[1, 1], [1, 0]], np.uint8))
    left, top, bitmap = union([a, b])
    assert (left, top) == (2, 2)
    assert bitmap.tolist() == [[0, 1, 1], [1, 1, 0], [1, 1, 0]]
    assert union([a]) is a


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 0}, "tile=0 must be at least 1, or null for whole pictures"),
        ({"tile": 64, "overlap": 1.0}, "overlap=1.0 must be at least 0 and less than 1"),
    ],
)
def test_wrong_settings_say_so(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Predictor(BlobDetector(), device="cpu", **options)


def test_tiles_are_for_objects() -> None:
    with pytest.raises(
        ValueError, match=r"tile=64: this works where objects are found \(task=detection or task=inst"
    ):
        Predictor(BlobDetector("semantic_segmentation"), device="cpu", tile=64)
