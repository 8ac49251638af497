import pytest
import torch
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from tasks.detection.anchors import cell_anchors, make_anchors

CPU = torch.device("cpu")


def test_cell_anchors_by_hand() -> None:
    # 32 * sqrt(2) / 2 = 22.63 and 32 / sqrt(2) / 2 = 11.31, rounded
    expected = [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]
    assert cell_anchors(32, (0.5, 1.0, 2.0)).tolist() == expected


def test_order_is_level_row_column_ratio() -> None:
    anchors = make_anchors((16, 24), ((2, 3), (1, 2)), (4, 8), (1.0, 4.0), CPU)
    assert anchors.shape == ((6 + 2) * 2, 4)
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres[:4].tolist() == [[0, 0], [0, 0], [8, 0], [8, 0]]
    assert centres[6].tolist() == [0, 8]
    assert anchors[0].tolist() == [-2, -2, 2, 2]
    assert anchors[1].tolist() == [-1, -4, 1, 4]
    assert anchors[-2].tolist() == [12 - 4, -4, 12 + 4, 4]


@pytest.mark.parametrize("size", [(192, 192), (224, 352), (96, 800)])
def test_equal_to_torchvisions(size: tuple[int, int]) -> None:
    map_sizes = tuple((-(-size[0] // s), -(-size[1] // s)) for s in (4, 8, 16, 32, 64))
    sizes = (32, 64, 128, 256, 512)
    oracle = AnchorGenerator(tuple((s,) for s in sizes), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, *size), [size])
    expected = oracle(images, [torch.zeros(1, 1, *shape) for shape in map_sizes])[0]
    assert make_anchors(size, map_sizes, sizes, (0.5, 1.0, 2.0), CPU).equal(expected)


def test_anchors_made_in_inference_mode_serve_training() -> None:
    with torch.inference_mode():
        make_anchors((8, 8), ((3, 5),), (7,), (1.0,), CPU)
    anchors = make_anchors((8, 8), ((3, 5),), (7,), (1.0,), CPU)
    weight = torch.ones(1, requires_grad=True)
    (anchors * weight).sum().backward()
    assert not anchors.is_inference()
