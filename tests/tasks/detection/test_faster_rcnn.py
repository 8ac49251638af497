"""Faster R-CNN on batches of every awkward kind, and its options."""

import pytest
import torch
from torch import Tensor

from tasks.contracts import Batch
from tasks.detection.faster_rcnn import FasterRCNN
from tasks.detection.roi_align import PyramidTable
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model


def build(**options) -> FasterRCNN:
    torch.manual_seed(0)
    small = {"backbone": {"name": "resnet18"}, "pyramid": {"name": "fpn", "channels": 16}}
    spec = {"name": "faster_rcnn", **small, "box_representation_size": 32, **options}
    model = build_model(spec, num_classes=3, preprocessing=Preprocessing(short_side=None))
    assert isinstance(model, FasterRCNN)
    return model


def make_batch(objects: list[list[tuple]], *, crowd: bool = False) -> Batch:
    """A batch of noise images of 96 x 128 (the last one half as large), with these (label, x1, y1, x2, y2)."""
    rows = max(map(len, objects))
    boxes, labels = torch.zeros(len(objects), rows, 4), torch.full((len(objects), rows), -1)
    for i, image in enumerate(objects):
        for j, (label, *box) in enumerate(image):
            boxes[i, j], labels[i, j] = torch.tensor(box).float(), label
    sizes = torch.tensor([[96, 128]] * (len(objects) - 1) + [[48, 64]])
    images = torch.randint(0, 256, (len(objects), 3, 96, 128), dtype=torch.uint8)
    return Batch(
        images=images, sizes=sizes, original_sizes=sizes, image_ids=torch.arange(len(objects)), boxes=boxes,
        labels=labels, is_crowd=(labels >= 0) & crowd,
    )  # fmt: skip


V2 = {  # torchvision's second version, narrow
    "pyramid": {"name": "fpn", "channels": 16, "norm": "batch"},
    "rpn_convs": 2,
    "box_convs": 2,
    "box_linears": 1,
    "box_norm": "batch",
}
USUAL = [[(0, 10, 10, 60, 70), (2, 50, 20, 120, 90)], [(1, 5, 5, 40, 40)]]
BATCHES = {
    "usual": lambda: make_batch(USUAL),
    "no objects": lambda: make_batch([[], []]),
    "one image without objects": lambda: make_batch([USUAL[0], []]),
    "only crowds": lambda: make_batch(USUAL, crowd=True),
    "one pixel": lambda: make_batch([[(0, 10, 10, 11, 11)], [(1, 0, 0, 1, 1)]]),
    "larger than every anchor": lambda: make_batch([[(0, 0, 0, 128, 96)], [(1, 0, 0, 64, 48)]]),
    "500 objects": lambda: make_batch(
        [[(k % 3, k % 100, k % 60, k % 100 + 20, k % 60 + 30) for k in range(500)], []]
    ),
}


def losses(model: FasterRCNN, batch: Batch, bf16: bool = False) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return model.losses(model.features(batch), batch)


@pytest.mark.parametrize("options", [{}, V2], ids=["v1", "v2"])
@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", BATCHES)
def test_finite_losses_and_a_gradient_for_every_parameter(kind: str, bf16: bool, options: dict) -> None:
    model, batch = build(**options).train(), BATCHES[kind]()
    found = losses(model, batch, bf16)
    assert list(found) == ["loss_objectness", "loss_rpn_box", "loss_class", "loss_box"]
    total = torch.stack(list(found.values())).sum()
    assert total.isfinite()
    assert total.dtype == torch.float32
    total.backward()
    assert [
        name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()
    ] == []
    if kind in ("no objects", "only crowds"):
        assert found["loss_rpn_box"] == found["loss_box"] == 0


@pytest.mark.parametrize("kind", ["usual", "no objects"])
def test_predictions_are_valid(kind: str) -> None:
    model, batch = build(score_threshold=0.0, max_detections=20).eval(), BATCHES[kind]()
    with torch.no_grad():
        found = model(batch)
    kept = found.labels >= 0
    assert found.boxes.shape == (2, 20, 4)
    assert kept.any()
    assert (found.scores[~kept] == 0).all()
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.labels[kept] < 3).all()
    limit = batch.sizes.flip(1).repeat(1, 2)[:, None]
    assert ((found.boxes >= 0) & (found.boxes <= limit)).all()


def test_no_proposals_and_nothing_above_the_threshold() -> None:
    batch = BATCHES["usual"]()
    found = build(score_threshold=0.999).eval()(batch)
    assert (found.labels == -1).all()
    with torch.no_grad():
        model = build().eval()
        model.rpn.deltas.bias.fill_(float("nan"))  # no proposal is usable
        assert (model(batch).labels == -1).all()


def test_padding_is_no_part_of_the_statistics_of_a_batch_norm() -> None:
    """Boxes that are none must not move what norms of the box head learn, nor what it says of the others."""
    torch.manual_seed(0)
    head = build(**V2).train().roi_head
    table = PyramidTable.of([torch.randn(1, 16, 24, 32)], [4])
    boxes = torch.tensor([[[8.0, 8.0, 60.0, 70.0], [20.0, 4.0, 90.0, 80.0]]])
    valid = torch.tensor([[True, True]])
    alone = head(table, boxes, valid)
    mean = head.head.convs[0][1].running_mean.clone()
    head.head.convs[0][1].reset_running_stats()
    padded = torch.cat((boxes, torch.zeros(1, 3, 4)), dim=1)
    among = head(table, padded, torch.cat((valid, torch.zeros(1, 3, dtype=torch.bool)), dim=1))
    torch.testing.assert_close(head.head.convs[0][1].running_mean, mean)
    for one, other in zip(alone, among, strict=True):
        torch.testing.assert_close(one, other[:, :2])
    nothing = head(table, padded, torch.zeros(1, 5, dtype=torch.bool))
    assert nothing[0].shape == (1, 5, 4)
    assert head.head.convs[0][1].running_mean.isfinite().all()


def test_predictions_read_no_targets_and_do_not_depend_on_the_rest_of_the_batch() -> None:
    model, batch = build(score_threshold=0.0).eval(), BATCHES["usual"]()
    alone = Batch(**{name: None if value is None else value[:1] for name, value in vars(batch).items()})
    alone.boxes, alone.labels = torch.zeros(1, 0, 4), torch.zeros(1, 0, dtype=torch.int64)
    with torch.no_grad():
        both, one = model(batch), model(alone)
    torch.testing.assert_close(both.boxes[:1], one.boxes, atol=1e-3, rtol=1e-4)
    assert torch.equal(both.labels[:1], one.labels)


def test_methods_mean_the_same_in_any_mode() -> None:
    """With norms that do not look at the batch, losses and predictions are equal in train and eval mode."""
    model, batch = build(backbone={"name": "resnet18", "norm": "frozen"}), BATCHES["usual"]()
    values, boxes = [], []
    for mode in (True, False):
        model.train(mode)
        torch.manual_seed(1)
        values.append(losses(model, batch))
        boxes.append(model(batch).boxes)
    torch.testing.assert_close(values[0], values[1])
    torch.testing.assert_close(boxes[0], boxes[1])


@pytest.mark.slow
def test_training_learns_one_batch() -> None:
    model, batch = build(box_samples=64).train(), BATCHES["usual"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    seen = []
    for _ in range(25):
        total = torch.stack(list(losses(model, batch).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append(total.item())
    assert seen[-1] < 0.5 * seen[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"anchor_sizes": [8, 16]}, "anchor_sizes has 2 values.*the pyramid has 5 levels"),
        ({"backbone": {"name": "resnet51"}}, "resnet51.*resnet50"),
        ({"rpn_convs": 0}, "model.rpn_convs=0 must be at least 1"),
        ({"box_linears": 0}, "model.box_linears=0 must be at least 1, model.box_convs=0 at least 0"),
        ({"box_norm": "layer"}, "model.box_norm='layer' is unknown; choose one of None, 'batch'"),
        ({"pyramid": {"name": "fpm"}}, "fpm.*fpn"),
        ({"backbone": {"name": "resnet18", "nrom": "batch"}}, "nrom.*norm"),
    ],
)
def test_bad_options_are_one_sentence(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**{"pyramid": {"name": "fpn"}, **options})
