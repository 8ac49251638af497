"""The plain loop beside `experiment=nuclei`: torchvision's Mask R-CNN on the same data, settings and minutes.

Backbone, image size, batch, optimiser and the evaluation are those of the experiment; the network and its
training loop are torchvision's and PyTorch's own.

    python tests/peers/torchvision_mask_rcnn.py DIR --minutes 15
"""

import argparse
import time
from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from tasks.contracts import Batch, Detections
from tasks.data.coco import CocoData
from tasks.data.datamodule import DataModule
from tasks.instance_segmentation.metric import InstanceSegmentationMetric
from tasks.preprocessing import Preprocessing


def build(num_classes: int) -> MaskRCNN:
    """The network of the experiment in torchvision's parts."""
    channels = 128
    backbone = resnet_fpn_backbone(
        backbone_name="resnet18",
        weights=None,
        norm_layer=torch.nn.BatchNorm2d,
        trainable_layers=5,
    )
    backbone.fpn = type(backbone.fpn)([64, 128, 256, 512], channels, extra_blocks=backbone.fpn.extra_blocks)
    backbone.out_channels = channels
    anchors = AnchorGenerator(((8,), (16,), (32,), (64,), (128,)), ((0.5, 1.0, 2.0),) * 5)
    model = MaskRCNN(
        backbone,
        num_classes + 1,
        rpn_anchor_generator=anchors,
        rpn_pre_nms_top_n_train=500,
        rpn_post_nms_top_n_train=500,
        box_batch_size_per_image=128,
    )
    model.transform.resize = lambda image, target: (image, target)  # the loader has resized them
    return model


def inputs(batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """A batch as torchvision wants it, masks of full size included."""
    assert batch.mask_pixels is not None and batch.mask_places is not None
    images, targets = [], []
    for i, (height, width) in enumerate(batch.sizes.tolist()):
        images.append(batch.images[i, :, :height, :width].float() / 255)
        usable = (batch.labels[i] >= 0) & (batch.boxes[i, :, 2:] > batch.boxes[i, :, :2]).all(dim=1)
        masks = torch.zeros(int(usable.sum()), height, width, dtype=torch.uint8)
        for mask, (start, left, top, w, h) in zip(masks, batch.mask_places[i, usable].tolist(), strict=True):
            mask[top : top + h, left : left + w] = batch.mask_pixels[start : start + w * h].view(h, w)
        targets.append(
            {"boxes": batch.boxes[i, usable], "labels": batch.labels[i, usable] + 1, "masks": masks}
        )
    return images, targets


def batches(data: DataModule) -> Iterator[Batch]:
    """Training batches without end."""
    loader, epoch = data.train_dataloader(), 0
    while True:
        loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        yield from loader
        epoch += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("root")
    parser.add_argument("--minutes", type=float, default=15)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    source = CocoData(
        arguments.root,
        train_images="images",
        train_annotations="instances_train.json",
        val_images="images",
        val_annotations="instances_val.json",
    )
    data = DataModule(source, Preprocessing(short_side=256, max_size=384), batch_size=4, masks=True)
    model = build(len(data.class_names)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4, weight_decay=0.05)
    feed = batches(data)
    started = last = time.perf_counter()
    step = 0
    while time.perf_counter() - started < 60 * arguments.minutes:
        losses = model(*inputs(next(feed)))
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        step += 1
        if time.perf_counter() - last > 30:
            last = time.perf_counter()
            print(f"step {step}  loss {total.item():.3f}  {(last - started) / step:.2f} s a step", flush=True)
    print(f"{step} steps in {time.perf_counter() - started:.0f} s")

    model.eval()
    # Boxes and 28 x 28 masks from the heads; the experiment's own evaluation does the rest.
    model.transform.postprocess = lambda result, sizes, original: result
    metric = InstanceSegmentationMetric(data.split("val").annotations)
    for batch in data.val_dataloader():
        with torch.no_grad():
            found = model(inputs(batch)[0])
        most = max(len(one["scores"]) for one in found)
        detections = Detections(
            torch.zeros(len(found), most, 4),
            torch.zeros(len(found), most),
            torch.full((len(found), most), -1),
            torch.zeros(len(found), most, 28, 28),
        )
        assert detections.masks is not None
        for i, one in enumerate(found):
            rows = slice(len(one["scores"]))
            detections.boxes[i, rows] = one["boxes"]
            detections.scores[i, rows] = one["scores"]
            detections.labels[i, rows] = one["labels"] - 1
            detections.masks[i, rows] = one["masks"][:, 0]
        metric.update(detections.to_original(batch.sizes, batch.original_sizes), batch)
    numbers = metric.compute()
    print("  ".join(f"{name} {numbers[name]:.3f}" for name in ("AP", "AP50", "mask_AP", "mask_AP50")))


if __name__ == "__main__":
    main()
