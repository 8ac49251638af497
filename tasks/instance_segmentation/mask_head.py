"""The mask branch of Mask R-CNN: features pooled from boxes to one small mask for each class.

Legend, beside that of tasks/contracts.py:
    P  boxes        C  channels        R  cells along each side of what is pooled        S = 2 R, of a mask
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from backbones.checks import check_choice
from backbones.fpn import conv_norm
from backbones.layers import NORMS, Norm
from tasks.detection.roi_align import PyramidTable, multilevel_roi_align
from tasks.distributed import LossSum


@dataclass(frozen=True, kw_only=True)
class MaskHeadSettings:
    """Settings of the mask branch, under the names that users give them."""

    mask_roi_size: int = 14
    """Cells along each side of what is pooled from a box; its mask has twice as many."""
    mask_layers: int = 4
    """Convolutions before the upsampling."""
    mask_width: int = 256
    """Their channels."""
    mask_norm: Norm | None = None
    """Norm after each of them, "batch" in torchvision's `maskrcnn_resnet50_fpn_v2`; None for none."""

    def __post_init__(self) -> None:
        if self.mask_roi_size < 1 or self.mask_width < 1 or self.mask_layers < 0:
            raise ValueError(
                f"model.mask_roi_size={self.mask_roi_size} and model.mask_width={self.mask_width} must be at least 1, "
                f"model.mask_layers={self.mask_layers} at least 0"
            )
        check_choice("model.mask_norm", self.mask_norm, (None, *NORMS))


class MaskHead(nn.Module):
    """Convolutions, an upsampling by two, and one map for each class (Mask R-CNN, figure 4, right)."""

    def __init__(self, channels: int, num_classes: int, settings: MaskHeadSettings):
        super().__init__()
        self.num_classes = num_classes
        self.roi_size = settings.mask_roi_size
        layers, width = settings.mask_layers, settings.mask_width
        blocks: list[nn.Module] = []
        for i in range(layers):
            blocks += conv_norm(width if i else channels, width, 3, settings.mask_norm, relu=True)
        self.convs = nn.Sequential(*blocks)
        self.upsample = nn.ConvTranspose2d(width if layers else channels, width, 2, stride=2)
        self.masks = nn.Conv2d(width, num_classes, 1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, table: PyramidTable, boxes: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        """Logits (P, S, S) of the class `labels` (P,), for `boxes` (P, 4) of `images` (P,), pooled from `table`."""
        pooled = multilevel_roi_align(table, boxes, self.roi_size, images)
        features = self.convs(pooled)
        if self.training and features.device.type == "cpu":
            return self._masks_of(features, labels)
        logits = self.masks(F.relu(self.upsample(features)))
        return logits[torch.arange(labels.shape[0], device=labels.device), labels]

    def _masks_of(self, features: Tensor, labels: Tensor) -> Tensor:
        """`masks(relu(upsample(features)))` of the classes `labels` alone. Each cell becomes four that share nothing:
        both layers are matrix products, with quick gradients on a CPU, and what comes out is put in place."""
        up, masks = self.upsample, self.masks
        assert up.bias is not None and masks.bias is not None
        weight = up.weight.permute(2, 3, 1, 0).flatten(0, 2)  # rows: of each of the four cells, the channels
        fine = F.relu(F.linear(features.permute(0, 2, 3, 1), weight, up.bias.repeat(4)))
        fine = fine.unflatten(3, (4, up.out_channels)).flatten(1, 3)
        of_class = masks.weight.flatten(1)[labels].unsqueeze(2)
        logits = torch.baddbmm(masks.bias[labels].view(-1, 1, 1), fine, of_class)
        r = self.roi_size
        return logits.view(-1, r, r, 2, 2).permute(0, 1, 3, 2, 4).reshape(-1, 2 * r, 2 * r)


def mask_loss(logits: Tensor, targets: Tensor) -> LossSum:
    """Binary cross-entropy, the mean over all cells of `logits` and `targets` (P, S, S); 0 for no box at all,
    with a gradient of 0 for every parameter (Mask R-CNN, section 3)."""
    total = F.binary_cross_entropy_with_logits(logits.float(), targets, reduction="sum")
    cells = logits.shape[1] * logits.shape[2]
    return LossSum(total, torch.full((), float(len(logits) * cells), device=logits.device), least=cells)
