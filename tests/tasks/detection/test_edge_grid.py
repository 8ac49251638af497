"""Every detector, and Mask R-CNN, on batches of every awkward kind, in float32 and bf16."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tasks.contracts import Model
from tasks.data.loading.collate import collate
from tasks.preprocessing import Preprocessing
from tasks.targets import ObjectMask, Target
from tasks.zoo.registry import build_model

PREPROCESSING = Preprocessing(short_side=None)
SMALL_BACKBONE = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 16, 24, 32]}
TWO_STAGE = {"box_representation_size": 32, "anchor_sizes": [4, 8, 16, 32, 64]}
RETINANET = {"head_layers": 1, "anchor_sizes": [4, 8, 16, 32, 48]}
DETECTORS = {
    "faster_rcnn": TWO_STAGE,
    "mask_rcnn": {**TWO_STAGE, "mask_width": 8, "mask_layers": 1},
    "faster_rcnn cascade": {**TWO_STAGE, "cascade": [0.5, 0.6, 0.7]},
    "mask_rcnn cascade": {**TWO_STAGE, "mask_width": 8, "mask_layers": 1, "cascade": [0.5, 0.6, 0.7]},
    "retinanet": RETINANET,
    "retinanet giou": {**RETINANET, "head_norm": "group", "box_loss": "giou"},
    "fcos": {"head_layers": 1},
    "fcos ciou": {"head_layers": 1, "box_loss": "ciou", "class_loss": "cross_entropy"},
    "gfl": {"head_layers": 1},
    "gfl task_aligned": {"head_layers": 1, "assignment": "task_aligned"},
    "gfl warming up": {"head_layers": 1, "assignment": "task_aligned", "box_loss": "l1"},
    "yolox": {"width": 0.0625},
    "yolox l1": {"width": 0.0625, "box_loss": "l1", "class_loss": "focal"},
    "faster_rcnn ciou": {
        **TWO_STAGE, "box_loss": "ciou", "rpn_box_loss": "giou", "class_loss": "focal",
    },
}  # fmt: skip
SIZES = [(96, 128), (48, 64)]


def target(size: tuple[int, int], rows: list[tuple], crowd: bool) -> Target:
    boxes = np.array([box for _, *box in rows], np.float32).reshape(-1, 4)
    masks = []
    for x1, y1, x2, y2 in boxes.astype(int).tolist():
        masks.append(ObjectMask(x1, y1, np.ones((y2 - y1, x2 - x1), np.uint8)))
    labels = np.array([label for label, *_ in rows], np.int64)
    return Target(0, size, boxes, labels, np.full(len(rows), crowd), masks=masks)


def make_batch(objects: list[list[tuple]], sizes: list[tuple[int, int]] = SIZES, crowd: bool = False):
    generator = np.random.default_rng(0)
    samples = []
    for number, (rows, size) in enumerate(zip(objects, sizes, strict=True)):
        made = target(size, rows, crowd)
        made.image_id = number
        samples.append((generator.integers(0, 256, (*size, 3), dtype=np.uint8), made))
    return collate(samples, PREPROCESSING)


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
    "very different sizes": lambda: make_batch(USUAL, [(64, 192), (160, 48)]),
}


def build(kind: str, **options) -> Model:
    torch.manual_seed(0)
    name, spec = kind.split()[0], {**DETECTORS[kind], **options}
    return build_model(
        {
            "name": name,
            "backbone": SMALL_BACKBONE,
            "pyramid": {"channels": 16, "name": "pafpn" if name == "yolox" else "fpn"},
            **spec,
        },
        num_classes=3,
        preprocessing=PREPROCESSING,
    )


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {kind: build(kind) for kind in DETECTORS}


def losses(model: Model, batch, bf16: bool) -> dict[str, Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        return model.losses(model.features(batch), batch)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("kind", DETECTORS)
def test_finite_losses_a_gradient_for_every_parameter_and_valid_predictions(
    models: dict[str, Model], kind: str, batch: str, bf16: bool
) -> None:
    model, made = models[kind].train(), BATCHES[batch]()
    if kind.startswith("yolox"):
        model.with_l1 = True
    elif kind == "gfl warming up":
        model.is_warming_up = True
    model.zero_grad()
    found = losses(model, made, bf16)
    total = torch.stack(list(found.values())).sum()
    assert total.isfinite()
    assert total.dtype == torch.float32
    total.backward()
    bad = [
        n
        for n, p in model.named_parameters()
        if p.requires_grad and (p.grad is None or not p.grad.isfinite().all())
    ]
    assert bad == []
    if batch in ("no objects", "only crowds"):
        assert all(
            found[name] == 0
            for name in found
            if "box" in name or name in ("loss_l1", "loss_centerness", "loss_distribution")
        )
    check_predictions(model, made, bf16)


def check_predictions(model: Model, batch, bf16: bool) -> None:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = model.eval()(batch)
    kept = found.labels >= 0
    assert found.boxes.dtype == found.scores.dtype == torch.float32
    assert found.boxes.isfinite().all()
    assert (found.scores[~kept] == 0).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()
    assert (found.scores.diff(dim=1) <= 0).all()
    assert (found.labels < 3).all()
    limit = batch.sizes.flip(1).repeat(1, 2)[:, None]
    assert ((found.boxes >= 0) & (found.boxes <= limit)).all()


@pytest.mark.parametrize("kind", DETECTORS)
def test_nothing_and_everything_above_the_threshold(kind: str) -> None:
    batch = BATCHES["usual"]()
    assert (build(kind, score_threshold=1.0).eval()(batch).labels == -1).all()
    everything = build(kind, score_threshold=0.0, max_detections=20, nms_threshold=0.9).eval()
    with torch.no_grad():
        assert (everything(batch).labels >= 0).all()
    check_predictions(everything, batch, bf16=False)
    soft = build(kind, score_threshold=0.0, max_detections=20, soft_nms_sigma=0.5, class_agnostic_nms=True)
    check_predictions(soft, batch, bf16=False)


def test_no_proposals() -> None:
    for kind in ("faster_rcnn", "mask_rcnn", "faster_rcnn cascade", "mask_rcnn cascade"):
        model, batch = build(kind).eval(), BATCHES["usual"]()
        with torch.no_grad():
            model.rpn.deltas.bias.fill_(float("nan"))  # no proposal is usable
            assert (model(batch).labels == -1).all()


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "gfl", "gfl task_aligned", "yolox"])
def test_predictions_read_no_targets_and_do_not_depend_on_the_rest_of_the_batch(kind: str) -> None:
    model, batch = build(kind, score_threshold=0.0).eval(), BATCHES["usual"]()
    alone = make_batch([[]], SIZES[:1])
    alone.images = batch.images[:1]
    with torch.no_grad():
        both, one = model(batch), model(alone)
    torch.testing.assert_close(both.boxes[:1], one.boxes, atol=1e-3, rtol=1e-4)
    assert torch.equal(both.labels[:1], one.labels)


@pytest.mark.parametrize("kind", ["retinanet", "fcos", "gfl", "gfl task_aligned", "yolox"])
def test_training_learns_one_batch(kind: str) -> None:
    model, batch = build(kind).train(), BATCHES["usual"]()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    seen = []
    for _ in range(40):
        total = torch.stack(list(losses(model, batch, False).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        seen.append(total.item())
    assert seen[-1] < 0.6 * seen[0]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("retinanet", {"anchor_sizes": [8, 16]}, "anchor_sizes has 2 values.*the pyramid has 5 levels"),
        ("retinanet", {"box_loss": "gio"}, "box_loss=gio is unknown; wanted one of l1"),
        ("faster_rcnn", {"rpn_box_loss": "gio"}, "rpn_box_loss=gio is unknown"),
        ("fcos", {"class_loss": "hinge"}, "class_loss=hinge is unknown"),
        ("fcos", {"pre_nms": 0}, "pre_nms=0 must be at least 1"),
        ("gfl", {"assignment": "simota"}, "assignment='simota' is unknown; choose one of 'atss'"),
        (
            "faster_rcnn",
            {"class_loss": "quality_focal"},
            "class_loss=quality_focal is unknown; wanted one of cross_e",
        ),
        ("yolox", {"width": 0}, "width=0 and model.depth=1.0 must be above 0"),
        ("yolox", {"pyramid": {"name": "pafpm"}}, "pafpm.*pafpn"),
        (
            "yolox",
            {"backbone": {"name": "resnet18", "output_stride": 16}},
            "yolox needs maps of equal channels",
        ),
    ],
)
def test_bad_options_are_one_sentence(name: str, options: dict, message: str) -> None:
    spec = {"name": name, "backbone": {"name": "resnet18"}, **options}
    with pytest.raises(ValueError, match=message):
        build_model(spec, num_classes=2, preprocessing=PREPROCESSING)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["faster_rcnn", "retinanet", "fcos", "gfl", "gfl task_aligned", "yolox"])
def test_one_bf16_step_on_the_gpu_and_the_cpus_predictions(kind: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model, batch = build(kind, score_threshold=0.0, max_detections=20), BATCHES["usual"]()
    with torch.no_grad():
        expected = model.eval()(batch)
    model, moved = model.to("cuda").eval(), batch.to("cuda")
    with torch.no_grad():
        found = model(moved)
    torch.testing.assert_close(found.scores.cpu(), expected.scores, atol=2e-3, rtol=0)
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        total = torch.stack(list(model.losses(model.features(moved), moved).values())).sum()
    total.backward()
    optimizer.step()
    assert total.isfinite()
    assert all(p.isfinite().all() for p in model.parameters())
