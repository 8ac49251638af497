"""What losses and predictions share is computed once a batch, and a test computes no loss."""

from collections import Counter

import lightning.pytorch as pl
import pytest

from tasks.cli.terminal import prepare
from tasks.contracts import Model
from tasks.data.datamodule import DataModule
from tasks.data.formats.digits import DigitsData
from tasks.detection.task import DetectionTask
from tasks.harness.task import Task
from tasks.instance_segmentation.task import InstanceSegmentationTask
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header
from tasks.zoo.registry import build_model, resolved_spec

NUM_BATCHES = 2
BACKBONE = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 16, 24, 32]}
TWO_STAGE = {"box_representation_size": 32, "rpn_post_nms_test": 20}
MODELS = {
    "retinanet": {"head_layers": 1},
    "fcos": {"head_layers": 1},
    "gfl": {"head_layers": 1},
    "yolox": {"width": 0.0625},
    "faster_rcnn": TWO_STAGE,
    "mask_rcnn": {**TWO_STAGE, "mask_width": 8, "mask_layers": 1},
}


def make_task(name: str, source: DigitsData, preprocessing: Preprocessing) -> Task:
    pyramid = {"name": "pafpn" if name == "yolox" else "fpn", "channels": 16}
    spec = {"name": name, "backbone": BACKBONE, "pyramid": pyramid, **MODELS[name]}
    num_classes = len(source.class_names)
    model = build_model(spec, num_classes=num_classes, preprocessing=preprocessing)
    kind = InstanceSegmentationTask if name == "mask_rcnn" else DetectionTask
    model.header = Header(
        task="instance_segmentation" if name == "mask_rcnn" else "detection",
        model=resolved_spec(spec, model),
        class_names=source.class_names,
        category_ids=list(range(num_classes)),
        preprocessing=preprocessing.to_dict(),
    )
    return kind(model)


def count_calls(model: Model, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, calls of the backbone, of the proposal network or each dense head, and of `losses`."""
    calls: Counter[str] = Counter()
    parts = {"backbone", "rpn", "roi_head", *(f"heads.{i}" for i in range(5))}
    for name, module in model.named_modules():
        if name in parts:
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    losses = model.losses

    def counted(*arguments):
        calls.update(["losses"])
        return losses(*arguments)

    monkeypatch.setattr(model, "losses", counted)
    return calls


@pytest.fixture
def trainer(tmp_path) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )


@pytest.mark.parametrize("name", MODELS)
def test_heads_run_once_a_batch_and_a_test_computes_no_losses(
    name: str, trainer: pl.Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare("cpu")
    preprocessing = Preprocessing(short_side=None)
    source = DigitsData(num_train=1, num_val=2 * NUM_BATCHES, num_test=1, size=64, masks=name == "mask_rcnn")
    data = DataModule(
        source, preprocessing, batch_size=2, num_workers=0, test_split="val", masks=name == "mask_rcnn"
    )
    task = make_task(name, source, preprocessing)
    calls = count_calls(task.model, monkeypatch)
    if name in ("faster_rcnn", "mask_rcnn"):
        once = {"backbone": NUM_BATCHES, "rpn": NUM_BATCHES}
        heads = {"roi_head": NUM_BATCHES}  # of other boxes for losses than for predictions
    else:
        num_levels = {"retinanet": 5, "fcos": 5, "gfl": 5}.get(
            name, 1
        )  # one head for all levels, or one for each
        num_heads = 3 if name == "yolox" else 1
        once = {"backbone": NUM_BATCHES, **{f"heads.{i}": NUM_BATCHES * num_levels for i in range(num_heads)}}
        heads = {}

    trainer.validate(task, datamodule=data, verbose=False)
    assert calls == {**once, **{head: 2 * count for head, count in heads.items()}, "losses": NUM_BATCHES}
    validated = task.numbers
    assert "val/loss" in trainer.callback_metrics

    calls.clear()
    trainer.test(task, datamodule=data, verbose=False)
    assert calls == {**once, **heads}
    assert task.numbers == validated
    assert trainer.callback_metrics.keys() == {f"test/{metric}" for metric in validated}
