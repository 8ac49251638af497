"""The plain loop beside an experiment: torchvision's R-CNN on the same data, settings and minutes.

Backbone, image size, batch, augmentation, optimiser and evaluation are those of the experiment, which is
composed here as `tools/train.py` would; the network and its training loop are torchvision's and PyTorch's own.

    python tests/peers/torchvision_rcnn.py experiment=nuclei data.root=DIR
    python tests/peers/torchvision_rcnn.py experiment=blood_cells data.root=DIR --split test
    python tests/peers/torchvision_rcnn.py experiment=blood_cells data.root=DIR --folder RUN

With `--folder` it leaves what happened on each image there, by which `vertebra compare runs=[RUN,OTHER] costs=false`
says whether another is better on the same images.
"""

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.callbacks import Timer
from omegaconf import DictConfig
from torch import Tensor
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tasks.cli.compose import compose
from tasks.cli.data import data_of, transforms_of
from tasks.cli.settings import settings_of
from tasks.contracts import Batch, Detections
from tasks.data.datamodule import DataModule
from tasks.harness.environment import fingerprint
from tasks.harness.settings import TrainSettings
from tasks.metrics.coco import CocoMetric
from tasks.metrics.instance_segmentation import InstanceSegmentationMetric
from tasks.metrics.outcomes import write_outcomes
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import TASKS, lookup

MASK_SIDE = 28
METRICS = {"detection": CocoMetric, "instance_segmentation": InstanceSegmentationMetric}


def build(config: DictConfig, num_classes: int) -> FasterRCNN:
    """The network of the experiment in torchvision's parts."""
    backbone = resnet_fpn_backbone(
        backbone_name=config.backbone.name,
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
    )
    channels = config.pyramid.channels
    backbone.fpn = type(backbone.fpn)([64, 128, 256, 512], channels, extra_blocks=backbone.fpn.extra_blocks)
    backbone.out_channels = channels
    sizes = tuple((size,) for size in config.model.anchor_sizes)
    kind = MaskRCNN if config.task.name == "instance_segmentation" else FasterRCNN
    model = kind(
        backbone,
        num_classes + 1,
        rpn_anchor_generator=AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes)),
        rpn_pre_nms_top_n_train=config.model.rpn_pre_nms_train,
        rpn_post_nms_top_n_train=config.model.rpn_post_nms_train,
        box_batch_size_per_image=config.model.box_samples,
    )
    model.transform.resize = lambda image, target: (image, target)  # the loader has resized them
    return model


def inputs(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A batch as torchvision wants it, masks of full size included."""
    images, targets = [], []
    for i, (height, width) in enumerate(batch.sizes.tolist()):
        images.append(batch.images[i, :, :height, :width].float() / 255)
        usable = (batch.labels[i] >= 0) & (batch.boxes[i, :, 2:] > batch.boxes[i, :, :2]).all(dim=1)
        targets.append({"boxes": batch.boxes[i, usable], "labels": batch.labels[i, usable] + 1})
        if batch.mask_pixels is not None and batch.mask_places is not None:
            masks = torch.zeros(int(usable.sum()), height, width, dtype=torch.uint8)
            places = batch.mask_places[i, usable].tolist()
            for mask, (start, left, top, w, h) in zip(masks, places, strict=True):
                mask[top : top + h, left : left + w] = batch.mask_pixels[start : start + w * h].view(h, w)
            targets[-1]["masks"] = masks
    return images, targets


def batches(data: DataModule) -> Iterator[Batch]:
    """Training batches without end."""
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader
        epoch += 1


def train(config: DictConfig, data: DataModule, model: FasterRCNN) -> None:
    seconds = Timer(config.trainer.max_time).time_remaining()
    assert seconds is not None
    optimizer = settings_of(TrainSettings, config).optimizer.factory()(model.parameters())
    feed = batches(data)
    started = last = time.perf_counter()
    step = 0
    while time.perf_counter() - started < seconds:
        losses = model(*inputs(next(feed)))
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.trainer.gradient_clip_val)
        optimizer.step()
        step += 1
        if time.perf_counter() - last > 30:
            last = time.perf_counter()
            print(f"step {step}  loss {total.item():.3f}  {(last - started) / step:.2f} s a step", flush=True)
    print(f"{step} steps in {time.perf_counter() - started:.0f} s", flush=True)


def evaluate(task: str, data: DataModule, model: FasterRCNN, folder: Path | None) -> dict[str, float]:
    model.eval()
    # Boxes and 28 x 28 masks from the heads; the experiment's own evaluation does the rest.
    model.transform.postprocess = lambda result, sizes, original: result
    annotations = data.split(data.eval_split).annotations
    metric = METRICS[task](annotations)
    for batch in data.val_dataloader():
        with torch.no_grad():
            found = model(inputs(batch)[0])
        most = max(len(one["scores"]) for one in found)
        shape = (len(found), most)
        masks = torch.zeros(*shape, MASK_SIDE, MASK_SIDE) if "masks" in found[0] else None
        detections = Detections(torch.zeros(*shape, 4), torch.zeros(shape), torch.full(shape, -1), masks)
        for i, one in enumerate(found):
            rows = slice(len(one["scores"]))
            detections.boxes[i, rows] = one["boxes"]
            detections.scores[i, rows] = one["scores"]
            detections.labels[i, rows] = one["labels"] - 1
            if masks is not None:
                masks[i, rows] = one["masks"][:, 0]
        metric.update(detections.to_original(batch.sizes, batch.original_sizes), batch)
    numbers = metric.compute()
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        ids = np.sort(annotations.image_ids)
        write_outcomes(folder, metric.outcomes(), ids, data=fingerprint(annotations), split=data.eval_split)
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--split", default="val")
    parser.add_argument("--folder", type=Path)
    arguments, words = parser.parse_known_args()
    config = compose("train", words)
    torch.manual_seed(config.seed)
    data = DataModule(
        data_of(config),
        Preprocessing(**config.preprocessing),
        augmentation=transforms_of(config),
        seed=config.seed,
        eval_split=arguments.split,
        **lookup(TASKS, "task", config.task.name).data_options,
        **config.loader,
    )
    model = build(config, len(data.class_names)).train()
    train(config, data, model)
    numbers = evaluate(config.task.name, data, model, arguments.folder)
    shown = ("AP", "AP50", "mask_AP", "mask_AP50")
    print("  ".join(f"{name} {numbers[name]:.3f}" for name in shown if name in numbers))


if __name__ == "__main__":
    main()
