"""The way from logits to the class of each original pixel."""

import pytest
import torch
import torch.nn.functional as F

from tasks.contracts import PixelScores
from tasks.semantic_segmentation import original_pixels
from tasks.semantic_segmentation.original_pixels import class_map, neighbours, original_class_maps


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("size", [(32, 48), (30, 45), (33, 50)])  # also where cells are not whole pixels
def test_unresized_is_torchs_interpolation(size: tuple[int, int]) -> None:
    logits = random_logits(5, 8, 12)
    expected = F.interpolate(logits[None], size, mode="bilinear", align_corners=False)[0].argmax(0)
    assert (class_map(logits, size, size, size) == expected).float().mean() > 0.998  # ties by rounding


@pytest.mark.parametrize("original", [(16, 24), (64, 96), (7, 5), (1, 1)])
def test_any_original_size_is_one_interpolation_of_the_valid_cells(original: tuple[int, int]) -> None:
    logits = random_logits(4, 8, 12)
    expected = F.interpolate(logits[None], original, mode="bilinear", align_corners=False)[0].argmax(0)
    found = class_map(logits, (32, 48), (32, 48), original)
    assert found.dtype == torch.uint8
    assert found.shape == original
    assert (found == expected).float().mean() > 0.998


def test_padding_has_no_say() -> None:
    logits = random_logits(3, 4, 4)
    alone = class_map(logits, (16, 16), (16, 16), (20, 20))
    padded = F.pad(logits, (0, 3, 0, 2), value=100.0)
    padded[1] += 50  # padding shouts for class 1
    padded[1, :4, :4] -= 50
    assert torch.equal(class_map(padded, (24, 28), (16, 16), (20, 20)), alone)


def test_bands_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = random_logits(6, 5, 7)
    whole = class_map(logits, (40, 56), (40, 50), (61, 73))
    monkeypatch.setattr(original_pixels, "_MOST_VALUES", 6 * 73 * 4)  # four rows at a time
    assert torch.equal(class_map(logits, (40, 56), (40, 50), (61, 73)), whole)


def test_each_image_gets_its_own_size() -> None:
    scores = PixelScores(random_logits(2, 3, 8, 8), (32, 32))
    maps = original_class_maps(scores, torch.tensor([[32, 20], [10, 32]]), torch.tensor([[64, 40], [5, 16]]))
    assert [tuple(m.shape) for m in maps] == [(64, 40), (5, 16)]
    alone = class_map(scores.logits[1], (32, 32), (10, 32), (5, 16))
    assert torch.equal(maps[1], alone)


def test_neighbours_by_hand() -> None:
    """Eight pixels over two cells: centres at -0.375, -0.125, … cells, the outer ones held at the edge."""
    first, second, share = neighbours(8, 8, 8, 2, torch.device("cpu"))
    assert first.tolist() == [0] * 6 + [1] * 2
    assert second.tolist() == [1] * 8
    assert share.tolist() == [0, 0, 0.125, 0.375, 0.625, 0.875, 0, 0]


def test_a_large_picture_of_many_classes_needs_little_memory() -> None:
    """12 megapixels of 150 classes are 7 GB of logits; the bands are a two-hundredth of that."""
    import resource

    logits = random_logits(150, 16, 16)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = class_map(logits, (64, 64), (64, 64), (300, 4000))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert found.shape == (300, 4000)
    assert grown < 400  # MB; all rows at once would take 720 for one copy alone
