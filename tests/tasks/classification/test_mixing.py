"""Mixup and CutMix by hand, and that a run which goes on mixes as one that never stopped."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from tasks.classification.mixing import Mixing, blend, check_sizes, cut, mixed_classes, paste
from tasks.contracts import Batch
from tasks.data.loading.collate import batch_images
from tasks.preprocessing import Preprocessing


class Fixed:
    """A generator that draws these integers."""

    def __init__(self, draws: Sequence[int]):
        self.draws = list(draws)

    def integers(self, stop: int) -> int:
        draw = self.draws.pop(0)
        assert draw < stop
        return draw


def batch_of(*values: int, size: tuple[int, int] = (8, 8)) -> Batch:
    images = [np.full((*size, 3), value, np.uint8) for value in values]
    batch = batch_images(images, Preprocessing(short_side=None, pad_multiple=1))
    batch.class_ids = torch.arange(len(values)) % 3
    return batch


def test_mixup_by_hand() -> None:
    images = batch_of(0, 100, 203).images
    mixed, share = blend(images, 0.75, Fixed([]))  # type: ignore[arg-type]
    assert share == 0.75
    assert mixed.dtype == torch.uint8
    assert mixed[:, 0, 0, 0].tolist() == [51, 75, 177]  # 0.25 x 203 = 50.75; 75; 152.25 + 25
    assert (mixed == mixed[:, :1, :1, :1]).all()


def test_cutmix_by_hand() -> None:
    images = batch_of(10, 20, size=(8, 12)).images
    # A quarter of the area goes: half of each side, 4 x 6, around row 5 and column 1, where 2 columns are lost.
    mixed, share = paste(images, 0.75, Fixed([5, 1]))  # type: ignore[arg-type]
    expected = torch.full((8, 12), 10, dtype=torch.uint8)
    expected[3:7, 0:4] = 20
    assert torch.equal(mixed[0], expected.expand(3, -1, -1))
    assert torch.equal(mixed[1], (30 - expected).expand(3, -1, -1))
    assert share == pytest.approx(1 - 16 / 96)
    assert images[0].unique().tolist() == [10], "the batch that came is left alone"


@pytest.mark.parametrize(
    ("share", "middle", "expected"),
    [(1.0, 3, (3, 3)), (0.0, 5, (0, 10)), (0.75, 9, (7, 10)), (0.36, 0, (0, 4))],
)
def test_ends_of_the_cut(share: float, middle: int, expected: tuple[int, int]) -> None:
    assert cut(10, share, Fixed([middle])) == expected  # type: ignore[arg-type]


def test_shares_of_classes() -> None:
    shares = mixed_classes(torch.tensor([0, 2, 2]), 4, 0.75)
    expected = [[0.75, 0, 0.25, 0], [0.25, 0, 0.75, 0], [0, 0, 1, 0]]
    assert shares.tolist() == expected


@pytest.mark.parametrize("options", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.2, "cutmix": 1.0}])
def test_same_seed_same_batch_other_seed_another(options: dict[str, float]) -> None:
    mixing, batch = Mixing(**options), batch_of(0, 90, 255, 30, size=(32, 32))
    batch.images = torch.randint(0, 256, batch.images.shape, dtype=torch.uint8)
    one, again = (mixing(batch, 3, seed=(0, 2, 5, 0)) for _ in range(2))
    assert torch.equal(one.images, again.images)
    assert torch.equal(one.class_weights, again.class_weights)
    for seed in ((1, 2, 5, 0), (0, 3, 5, 0), (0, 2, 6, 0), (0, 2, 5, 1)):
        assert not torch.equal(mixing(batch, 3, seed=seed).images, one.images)
    torch.testing.assert_close(one.class_weights.sum(dim=1), torch.ones(4))
    assert batch.class_weights is None


def test_shares_are_those_of_the_pixels() -> None:
    """A batch of a black and a white image: how bright they become is how much of each there is."""
    batch = batch_of(0, 255, size=(40, 40))
    for options in ({"mixup": 1.0}, {"cutmix": 1.0}):
        for step in range(20):
            mixed = Mixing(**options)(batch, 2, seed=(0, 0, step, 0))
            brightness = mixed.images.float().mean(dim=(1, 2, 3)) / 255
            torch.testing.assert_close(mixed.class_weights[:, 1], brightness, rtol=0, atol=0.003)


def test_both_methods_take_turns() -> None:
    batch = batch_of(0, 255)
    kinds = set()
    for step in range(30):
        mixed = Mixing(mixup=1.0, cutmix=1.0)(batch, 3, seed=(0, 0, step, 0)).images
        kinds.add("blend" if ((mixed > 0) & (mixed < 255)).any() else "paste")
    assert kinds == {"blend", "paste"}


def test_nothing_to_do() -> None:
    batch = batch_of(1, 2)
    assert not Mixing()
    assert Mixing()(batch, 3, seed=(0,)) is batch


def test_one_image_mixes_with_itself() -> None:
    batch = batch_of(7)
    mixed = Mixing(mixup=1.0)(batch, 3, seed=(0,))
    assert torch.equal(mixed.images, batch.images)
    assert mixed.class_weights.tolist() == [[1, 0, 0]]


@pytest.mark.parametrize("option", [{"mixup": -1.0}, {"cutmix": float("inf")}, {"mixup": float("nan")}])
def test_bad_options_are_named(option: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=rf"task.{next(iter(option))}=.* must be 0, for none, or the α"):
        Mixing(**option)


def test_images_of_several_sizes_cannot_be_mixed() -> None:
    images = [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 6, 3), np.uint8)]
    batch = batch_images(images, Preprocessing(short_side=None))
    with pytest.raises(
        ValueError, match="a batch has 8 x 6 and 8 x 8; set preprocessing.center_crop, or both"
    ):
        check_sizes(batch)
    check_sizes(batch_of(1, 2))
