"""`NetworkGraph`: a model as a function of plain tensors, and the example that it is traced with.

Legend, beside that of tasks/contracts.py:
    H, W  height and width of the padded images of a batch     h, w  those of the valid area of one
"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

import backbones
from tasks.contracts import Batch, Model, PixelScores

INPUTS = ("images", "sizes")


class NetworkGraph(nn.Module):
    """Images uint8 (B, 3, H, W) and their valid sizes int64 (B, 2) as (h, w) to what a model finds in them.

    Outputs are the tensors of the model's predictions in the order of their fields: boxes, scores, labels and masks of
    `Detections`; logits of `Classification` and of `PixelScores`.
    """

    def __init__(self, model: Model):
        super().__init__()
        self.model = model.eval()

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        return tuple(outputs_of(self.model(batch_of(images, sizes))).values())

    def extractor(self) -> backbones.FeatureExtractor:
        """What makes the feature maps."""
        assert isinstance(self.model.backbone, backbones.FeatureExtractor)
        return self.model.backbone

    def output_names(self) -> list[str]:
        """In the order of the outputs."""
        with torch.inference_mode():
            return list(outputs_of(self.model(batch_of(*example(self, 1)))))

    def dynamic_shapes(self) -> tuple[dict[int, Any], ...]:
        """Which dimensions of the two inputs may differ from the example's: number of images, height and width."""
        preprocessing, dim = self.model.preprocessing, torch.export.Dim
        batch, step = dim("batch"), preprocessing.pad_multiple
        if preprocessing.center_crop is not None:  # always of that size
            return {0: batch}, {0: batch}
        height, width = (dim.AUTO if step == 1 else step * dim(name) for name in ("rows", "columns"))
        return {0: batch, 2: height, 3: width}, {0: batch}


def batch_of(images: Tensor, sizes: Tensor) -> Batch:
    """The batch of these images, without targets; its originals are what is valid of them."""
    count = images.shape[0]
    return Batch(
        images=images,
        sizes=sizes,
        original_sizes=sizes,
        image_ids=sizes[:, 0],
        boxes=images.new_zeros(count, 0, 4, dtype=torch.float32),
        labels=sizes.new_zeros(count, 0),
        is_crowd=images.new_zeros(count, 0, dtype=torch.bool),
    )


def outputs_of(found: Any) -> dict[str, Tensor]:
    """The tensors of a model's predictions by name; logits of pixels as float32."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    if isinstance(found, PixelScores):
        values["logits"] = found.logits.float()
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def step_of(model: Model) -> int:
    """Pixels that heights and widths of batches are multiples of."""
    return 1 if model.preprocessing.center_crop is not None else model.preprocessing.pad_multiple


def padded(model: Model, height: int, width: int) -> tuple[int, int]:
    """The nearest size from there on that a batch may have."""
    return model.preprocessing.padded_size([(height, width)])


def example(
    network: NetworkGraph, num_images: int = 2, cells: tuple[int, int] = (2, 3)
) -> tuple[Tensor, Tensor]:
    """Random images and their sizes, with so many `cells` and one more along the sides of the coarsest map.

    A map of a single row or column would be taken for one of every size, and the file be wrong at others.
    """
    model = network.model
    side = model.preprocessing.center_crop
    if side is None:
        stride = max(info.stride for info in network.extractor().feature_info.values())
        height, width = padded(model, *(stride * (count + 1) for count in cells))
    else:
        height = width = side
    return random_batch(model, [(height, width)] * num_images, seed=height * width)


def random_batch(model: Model, sizes: list[tuple[int, int]], seed: int) -> tuple[Tensor, Tensor]:
    """Images of blocks and noise of these `sizes`, padded with zeros to the batch's."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.zeros(len(sizes), 3, *model.preprocessing.padded_size(sizes), dtype=torch.uint8)
    for image, (height, width) in zip(images, sizes, strict=True):
        blocks = torch.randint(256, (3, -(-height // 16), -(-width // 16)), generator=generator)
        pixels = blocks.repeat_interleave(16, 1).repeat_interleave(16, 2)[:, :height, :width]
        noise = torch.randint(-20, 21, pixels.shape, generator=generator)
        image[:, :height, :width] = (pixels + noise).clamp(0, 255).to(torch.uint8)
    return images, torch.tensor(sizes)
