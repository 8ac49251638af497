"""What of FCOS no parity test sees: how a network of random weights begins."""

import pytest
import torch

from tasks.detection.fcos import fcos
from tests.tasks.detection.test_edge_grid import PREPROCESSING, SMALL_BACKBONE, make_batch

OBJECTS = [[(0, 10, 10, 60, 70), (1, 70, 20, 90, 36), (2, 100, 60, 109, 69)], [(1, 5, 5, 40, 40)]]


@pytest.mark.parametrize("seed", range(3))
def test_sides_of_boxes_learn_from_the_first_step(seed: int) -> None:
    """With sides around 0, as other heads begin, half of them have no gradient, and with all of them at 0 none has."""
    torch.manual_seed(seed)
    model = fcos(num_classes=3, backbone=SMALL_BACKBONE, preprocessing=PREPROCESSING).train()
    batch = make_batch(OBJECTS)
    found = model.features(batch)
    assert (found.deltas > 0).float().mean() > 0.98
    found.deltas.retain_grad()
    model.losses(found, batch)["loss_box"].backward()
    gradient = found.deltas.grad
    assert gradient is not None
    sides = (gradient != 0).sum(dim=2)  # of each point; none of those that stand for no object
    assert (sides[sides > 0] == 4).float().mean() > 0.95
    assert (sides == 4).any(dim=1).all()
