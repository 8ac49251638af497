import pytest
import torch

from tasks.detection.sampling import sample_balanced


def drawn(num_positive: int, num_negative: int, budget: int, fraction: float, num_other: int = 3):
    """A sample of shuffled candidates, as (positives, negatives, padding)."""
    total = num_positive + num_negative + num_other
    kind = torch.zeros(1, total, dtype=torch.int64)
    order = torch.randperm(total)
    kind[0, order[:num_positive]] = 1
    kind[0, order[num_positive : num_positive + num_negative]] = 2
    samples = sample_balanced(kind == 1, kind == 2, budget=budget, positive_fraction=fraction)
    assert samples.indices.shape == (1, min(budget, total))
    chosen = kind.gather(1, samples.indices)
    assert (chosen[samples.positive] == 1).all()
    assert (chosen[samples.valid & ~samples.positive] == 2).all()
    used = samples.indices[samples.valid]
    assert len(used.unique()) == len(used), "drawn twice"
    count = int(samples.positive.sum())
    assert samples.positive[0, :count].all(), "positives come first"
    return count, int(samples.valid.sum()) - count, int((~samples.valid).sum())


@pytest.mark.parametrize(
    ("positives", "negatives", "budget", "fraction", "expected"),
    [
        (50, 500, 64, 0.25, (16, 48, 0)),  # enough of both
        (5, 500, 64, 0.25, (5, 59, 0)),  # negatives fill what positives leave
        (50, 10, 64, 0.25, (16, 10, 37)),  # positives do not fill what negatives leave
        (0, 500, 64, 0.5, (0, 64, 0)),
        (500, 0, 64, 0.5, (32, 0, 32)),
        (3, 4, 64, 0.5, (3, 4, 3)),  # fewer candidates than the budget
        (0, 0, 64, 0.5, (0, 0, 3)),
    ],
)
def test_budget(positives: int, negatives: int, budget: int, fraction: float, expected: tuple) -> None:
    assert drawn(positives, negatives, budget, fraction) == expected


def test_images_of_a_batch_are_drawn_apart() -> None:
    positive = torch.zeros(3, 40, dtype=torch.bool)
    positive[0, :4] = True
    negative = torch.zeros_like(positive)
    negative[:2, 10:] = True
    samples = sample_balanced(positive, negative, budget=8, positive_fraction=0.5)
    assert samples.positive.sum(dim=1).tolist() == [4, 0, 0]
    assert samples.valid.sum(dim=1).tolist() == [8, 8, 0]


def test_every_candidate_is_as_likely() -> None:
    torch.manual_seed(0)
    negative = torch.ones(2000, 10, dtype=torch.bool)
    samples = sample_balanced(~negative, negative, budget=5, positive_fraction=0.5)
    counts = samples.indices.flatten().bincount(minlength=10)
    assert counts.sum() == 10_000
    assert ((counts - 1000).abs() < 150).all()
