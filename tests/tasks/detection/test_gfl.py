"""GFL: distributions and quality by hand, and its losses beside their formulas written as loops."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tasks.detection.atss import match_adaptively
from tasks.detection.distributions import distribution_focal_losses, expected_distances
from tasks.detection.focal_loss import focal_losses, quality_focal_losses
from tasks.detection.gfl import GFL
from tasks.detection.matching import take_matched, valid_targets
from tasks.detection.task import DetectionTask
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model
from tests.device.small_models import BACKBONE, PYRAMID, make_batch
from tests.tasks.detection.assignment_loops import adaptive_matches, aligned_matches, overlap
from tests.tiny_runs import tiny_run


def test_distances_and_their_loss_by_hand() -> None:
    shares = torch.tensor(
        [[0.5, 0.25, 0.25], [1.0, 1e-30, 1e-30], [1e-30, 1e-30, 1.0], [1 / 3, 1 / 3, 1 / 3]]
    )
    logits = shares.log().flatten()
    torch.testing.assert_close(expected_distances(logits), torch.tensor([0.75, 0.0, 2.0, 1.0]))
    at = torch.tensor([0.25, 0.0, 1.9, 1.5])
    by_side = [0.75 * math.log(2) + 0.25 * math.log(4), 0.0, 0.1 * 30 * math.log(10), math.log(3)]
    torch.testing.assert_close(distribution_focal_losses(logits, at), torch.tensor(sum(by_side) / 4))
    beyond = torch.tensor([-3.0, 0.0, 700.0, 1.9])  # as 0, and as 1.9, which is 0.1 below the last
    by_side = [math.log(2), 0.0, 0.1 * 30 * math.log(10), math.log(3)]
    torch.testing.assert_close(distribution_focal_losses(logits, beyond), torch.tensor(sum(by_side) / 4))


def test_distributions_are_computed_in_float32() -> None:
    logits = torch.randn(5, 4 * 17).bfloat16()
    assert (
        expected_distances(logits).dtype
        == distribution_focal_losses(logits, torch.ones(5, 4)).dtype
        == torch.float32
    )
    empty = torch.zeros(0, 68, requires_grad=True)
    (expected_distances(empty).sum() + distribution_focal_losses(empty, torch.zeros(0, 4)).sum()).backward()
    assert empty.grad is not None


def quality_by_hand(logits: list[float], label: int, quality: float) -> float:
    total = 0.0
    for k, x in enumerate(logits):
        p, y = 1 / (1 + math.exp(-x)), quality if k == label else 0.0
        total -= abs(y - p) ** 2 * (y * math.log(p) + (1 - y) * math.log(1 - p))
    return total


def test_quality_focal_loss_by_hand() -> None:
    logits = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 3
    labels, quality = torch.arange(40) % 4, torch.linspace(0, 1, 40)
    expected = [
        quality_by_hand(*row) for row in zip(logits.tolist(), labels.tolist(), quality.tolist(), strict=True)
    ]
    torch.testing.assert_close(quality_focal_losses(logits, labels, quality), torch.tensor(expected))
    exact = quality_focal_losses(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64), torch.tensor([0.5]))
    assert exact.item() == 0  # p = y


def test_gradient_of_quality_focal_loss_by_finite_differences() -> None:
    logits = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    labels, quality = torch.arange(8) % 4, torch.linspace(0, 1, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: quality_focal_losses(x, labels, quality), logits)
    sure = torch.tensor([[200.0, -200.0], [200.0, -200.0]], requires_grad=True)
    losses = quality_focal_losses(sure, torch.tensor([1, 0]), torch.tensor([0.5, 1.0]))
    losses.sum().backward()
    torch.testing.assert_close(losses, torch.tensor([200 + 0.25 * 100, 0.0]))
    assert sure.grad is not None and sure.grad.isfinite().all()


def small_gfl(**options) -> GFL:
    torch.manual_seed(1)
    spec = {"name": "gfl", "backbone": BACKBONE, "pyramid": PYRAMID, "head_layers": 1, **options}
    model = build_model(spec, num_classes=3, preprocessing=Preprocessing(short_side=None))
    assert isinstance(model, GFL)
    torch.nn.init.normal_(model.heads[0].deltas.weight, std=0.2)  # type: ignore[union-attr, arg-type]
    return model


def giou(a: list[float], b: list[float]) -> float:
    u = overlap(a, b)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    union = sum(areas) / (1 + u)
    around = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return u - (around - union) / around


def box_by_hand(deltas: list[float], anchor: list[float]) -> tuple[list[float], list[list[float]]]:
    """The box, and the probabilities of each side."""
    stride = (anchor[2] - anchor[0]) / 8
    x, y = (anchor[0] + anchor[2]) / 2, (anchor[1] + anchor[3]) / 2
    sides = []
    for side in range(4):
        powers = [math.exp(v) for v in deltas[17 * side : 17 * side + 17]]
        sides.append([p / sum(powers) for p in powers])
    left, top, right, bottom = (stride * sum(i * p for i, p in enumerate(side)) for side in sides)
    return [x - left, y - top, x + right, y + bottom], sides


@pytest.mark.parametrize("assignment", ["atss", "task_aligned"])
def test_losses_are_those_of_the_formulas_in_loops(assignment: str) -> None:
    model, batch = small_gfl(assignment=assignment).eval(), make_batch(4, 48, 64, pin=False)
    with torch.no_grad():
        found = model.features(batch)
        losses = model.losses(found, batch)
    anchors = found.anchors.tolist()
    classes, positives, weights, box, distribution = 0.0, 0, 0.0, 0.0, 0.0
    for image in range(len(batch)):
        rows = ((batch.labels[image] >= 0) & ~batch.is_crowd[image]).nonzero()[:, 0].tolist()
        objects = {row: (batch.boxes[image, row].tolist(), int(batch.labels[image, row])) for row in rows}
        logits, deltas = found.logits[image].tolist(), found.deltas[image].tolist()
        scores = [[1 / (1 + math.exp(-x)) for x in row] for row in logits]
        made = [box_by_hand(*pair) for pair in zip(deltas, anchors, strict=True)]
        boxes = [of_anchor for of_anchor, _ in made]
        if assignment == "atss":
            listed = [of_object for of_object, _ in objects.values()]
            matches = [
                rows[row] if row >= 0 else -1
                for row in adaptive_matches(found.anchors, found.level_sizes, listed)
            ]
            quality = [overlap(boxes[i], objects[m][0]) if m >= 0 else 0 for i, m in enumerate(matches)]
            weight = [max(row) for row in scores]
        else:
            matches, quality = aligned_matches(anchors, boxes, scores, objects)
            weight = quality
        for i, match in enumerate(matches):
            classes += quality_by_hand(logits[i], objects[match][1] if match >= 0 else -1, quality[i])
            if match < 0:
                continue
            positives, weights = positives + 1, weights + weight[i]
            gt, stride = objects[match][0], (anchors[i][2] - anchors[i][0]) / 8
            x, y = (anchors[i][0] + anchors[i][2]) / 2, (anchors[i][1] + anchors[i][3]) / 2
            box += weight[i] * (1 - giou(boxes[i], gt))
            for shares, side in zip(made[i][1], (x - gt[0], y - gt[1], gt[2] - x, gt[3] - y), strict=True):
                d = min(max(side / stride, 0), 15.9)
                j = int(d)
                distribution -= (
                    weight[i] * ((j + 1 - d) * math.log(shares[j]) + (d - j) * math.log(shares[j + 1])) / 4
                )
    assert positives > 5
    expected = {
        "loss_class": classes / positives,
        "loss_box": 2 * box / weights,
        "loss_distribution": 0.25 * distribution / weights,
    }
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], torch.tensor(value), rtol=1e-4, atol=1e-6)


def test_a_task_aligned_one_warms_up_by_atss_with_focal_loss() -> None:
    model, batch = small_gfl(assignment="task_aligned"), make_batch(4, 48, 64, pin=False)
    by_place = small_gfl()

    def lost(of: GFL) -> dict[str, Tensor]:
        with torch.no_grad():
            return of.eval().losses(of.features(batch), batch)

    aligned = lost(model)
    model.is_warming_up = True
    warming, expected = lost(model), lost(by_place)
    assert torch.equal(warming["loss_box"], expected["loss_box"])
    assert not torch.equal(warming["loss_box"], aligned["loss_box"])
    with torch.no_grad():
        found = model.features(batch)
    valid = valid_targets(batch.boxes, batch.labels, batch.is_crowd)
    matches = match_adaptively(found.anchors, found.level_sizes, batch.boxes, valid)
    plain = focal_losses(found.logits, take_matched(batch.labels, matches, 3)).sum()  # all shall reach 1
    torch.testing.assert_close(warming["loss_class"], plain / (matches >= 0).sum())


def test_the_task_ends_the_warm_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, losses = [], GFL.losses

    def watched(model: GFL, *arguments):
        if model.training:
            seen.append(model.is_warming_up)
        return losses(model, *arguments)

    monkeypatch.setattr(GFL, "losses", watched)
    tiny_run("gfl", tmp_path / "run", "task.atss_first_fraction=0.5", steps=4)
    assert seen == [True, True, False, False]
    with pytest.raises(ValueError, match="task.atss_first_fraction=2.0 must be a share of the steps"):
        DetectionTask(small_gfl(), atss_first_fraction=2.0)
