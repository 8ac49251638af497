"""The task through training, evaluation and prediction on embedded scenes."""

import contextlib
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

import tasks
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.cli.train import train
from tasks.contracts import Batch, Detections
from tasks.data.formats.digits import DigitsData
from tasks.data.loading.collate import collate
from tasks.detection.faster_rcnn import FasterRCNNSettings
from tasks.detection.roi_head import BoxHeadSettings
from tasks.instance_segmentation.mask_rcnn import MaskHeadSettings, MaskRCNN, mask_rcnn
from tasks.instance_segmentation.result import Instances
from tasks.metrics.instance_segmentation import InstanceSegmentationMetric
from tasks.preprocessing import Preprocessing
from tests.tiny_runs import NETWORK

SMALL = [
    "data.num_train=64", "data.num_val=6", "data.num_test=4", "data.size=96", "loader.batch_size=4",
    "trainer.max_steps=100", "pyramid.channels=16", "model.mask_width=16", *NETWORK,
]  # fmt: skip
NAMES = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large")
NAMES += ("AR_1", "AR_10", "AR_100", "AR_small", "AR_medium", "AR_large")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("instances") / "run"
    train(compose("train", ["task=instance_segmentation", *SMALL, f"run_dir={folder}"]))
    return folder


def by_hand(truth: dict, results: Path, kind: str, place: Path) -> list[float]:
    (place / "truth.json").write_text(json.dumps(truth))
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(str(place / "truth.json"))
        scored = COCOeval(data, data.loadRes(str(results)), kind)
        scored.evaluate()
        scored.accumulate()
        scored.summarize()
    return list(scored.stats)


def assert_numbers(numbers: dict[str, float], stats: list[float], prefix: str) -> None:
    for name, expected in zip(NAMES, stats, strict=True):
        assert np.nan_to_num(numbers[prefix + name], nan=-1.0) == pytest.approx(expected, abs=1e-9), name


def test_numbers_equal_pycocotools_on_the_written_files(run: Path, tmp_path: Path) -> None:
    truth = DigitsData(num_train=64, num_val=6, num_test=4, size=96, masks=True).split("val").annotations
    numbers = json.loads((run / "metrics.json").read_text())
    assert numbers["AR_100"] > 0
    for file, kind, prefix in (("detections.json", "bbox", ""), ("masks.json", "segm", "mask_")):
        assert_numbers(numbers, by_hand(truth.to_coco(), run / file, kind, tmp_path), prefix)


@pytest.mark.parametrize("backend", ["hotcoco", "pycocotools"])
def test_good_predictions_with_crowds_equal_pycocotools(tmp_path: Path, backend: str) -> None:
    """Predictions near the truth, so that the numbers are far from 0, and one object in five a crowd."""
    split = DigitsData(num_train=1, num_val=8, num_test=1, masks=True).split("val")
    annotations = split.annotations
    generator = np.random.default_rng(0)
    annotations.is_crowd = generator.random(len(annotations.labels)) < 0.2
    metric = InstanceSegmentationMetric(annotations, backend=backend)
    for index in range(len(split)):
        batch = collate([(split.image(index), annotations.target(index))], Preprocessing(short_side=None))
        count = batch.boxes.shape[1]
        boxes = batch.boxes + torch.from_numpy(generator.normal(0, 2, (1, count, 4)).astype(np.float32))
        boxes[..., 2:] = boxes[..., 2:].maximum(boxes[..., :2] + 1)
        scores = torch.from_numpy(np.sort(generator.random((1, count)).astype(np.float32))[:, ::-1].copy())
        masks = torch.from_numpy(generator.random((1, count, 28, 28)).astype(np.float32))
        masks = torch.nn.functional.avg_pool2d(masks, 9, 1, 4, count_include_pad=False) + 0.1
        metric.update(Detections(boxes, scores, batch.labels, masks), batch)
    numbers = metric.compute()
    assert numbers["mask_AP50"] > 0.1
    metric.write_results(tmp_path)
    truth = annotations.to_coco()
    for annotation in truth["annotations"]:
        annotation["segmentation"]["counts"] = str(annotation["segmentation"]["counts"])
    for file, kind, prefix in (("detections.json", "bbox", ""), ("masks.json", "segm", "mask_")):
        assert_numbers(numbers, by_hand(truth, tmp_path / file, kind, tmp_path), prefix)


def test_evaluation_repeats_the_numbers(run: Path, tmp_path: Path) -> None:
    words = [
        f"checkpoint={run / 'model.safetensors'}",
        *SMALL[:5],
        "precision=32-true",
        "trainer.accelerator=cpu",
        f"run_dir={tmp_path / 'out'}",
    ]
    evaluate(compose("evaluate", words))
    trained, evaluated = (
        json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "out")
    )
    assert evaluated == pytest.approx(trained, nan_ok=True)


def test_predictor_gives_masks_in_original_pixels(run: Path) -> None:
    scene = DigitsData(num_test=1).split("test").image(0)
    found = tasks.load_predictor(run / "model.safetensors", device="cpu", precision="32-true")(scene)
    assert isinstance(found, Instances)
    assert found.masks.shape == (len(found), *scene.shape[:2])
    assert found.masks.dtype == bool
    for entry, mask in zip(found.to_dict()["objects"], found.masks, strict=True):
        rle = {**entry["segmentation"], "counts": entry["segmentation"]["counts"].encode()}
        assert (coco_mask.decode(rle) == mask).all()
    confident = found.above(0.3)
    assert len(confident.masks) == len(confident) <= len(found)
    assert found.draw(scene).shape[2] == 3


@pytest.fixture(scope="module")
def model() -> MaskRCNN:
    torch.manual_seed(0)
    return mask_rcnn(
        num_classes=10,
        backbone={"name": "resnet18"},
        pyramid={"name": "fpn", "channels": 8},
        mask_head=MaskHeadSettings(mask_width=8, mask_layers=1),
        settings=FasterRCNNSettings(box_head=BoxHeadSettings(box_representation_size=16)),
    )


def batch_of(*indices: int, keep: slice = slice(None), crowd: bool = False) -> Batch:
    split = DigitsData(num_train=8, num_val=1, num_test=1, size=64, masks=True).split("train")
    samples = []
    for index in indices:
        target = split.annotations.target(index)
        assert target.masks is not None
        target.boxes, target.labels = target.boxes[keep], target.labels[keep]
        target.is_crowd = target.is_crowd[keep] | crowd
        target.masks = target.masks[keep]
        samples.append((split.image(index), target))
    return collate(samples, Preprocessing(short_side=None))


@pytest.mark.parametrize(
    "batch",
    [
        batch_of(0, 1),
        batch_of(0, 1, keep=slice(0, 0)),
        batch_of(0, crowd=True),
        batch_of(2, keep=slice(0, 1)),
    ],
    ids=["objects", "none", "only crowds", "one"],
)
def test_finite_losses_and_a_gradient_for_every_parameter(model: MaskRCNN, batch: Batch) -> None:
    model.train().zero_grad()
    losses = model.losses(model.features(batch), batch)
    total = torch.stack(list(losses.values())).sum()
    total.backward()
    assert torch.isfinite(total)
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_predictions_of_nothing(model: MaskRCNN) -> None:
    head = model.eval().roi_head
    usual, head.detection = head.detection, replace(head.detection, score_threshold=1.0)
    with torch.no_grad():
        found = model(batch_of(0, 1))
    head.detection = usual
    assert found.labels.shape[1] == 0 or (found.labels < 0).all()
    assert found.masks is not None and found.masks.shape[:2] == found.labels.shape


def test_every_argument_of_the_detector_can_be_set() -> None:
    config = compose(
        "train", ["task=instance_segmentation", "model.score_threshold=0.3", "model.mask_layers=2"]
    )
    assert config.model.score_threshold == 0.3
    with pytest.raises(ValueError, match="model.mask_layer.*model.mask_layers"):
        compose("train", ["task=instance_segmentation", "model.mask_layer=2"])
    with pytest.raises(ValueError, match="mask_roi_size=0"):
        MaskHeadSettings(mask_roi_size=0)
