"""A backbone of one's own under a pyramid and a detector, two steps of training: `python examples/own_backbone.py`."""

import torch
from torch import Tensor, nn

import backbones
import tasks.data
from backbones.spec import describes_itself
from tasks.data.datamodule import DataModule
from tasks.detection.dense_detector import AnchorGrid
from tasks.detection.dense_head import DenseHead
from tasks.detection.retinanet import RetinaNet, RetinaNetSettings
from tasks.preprocessing import Preprocessing


class PlainConvolutions(backbones.FeatureExtractor):
    """One strided convolution a stage: maps c3, c4, c5 of `width`, twice and four times as many channels."""

    @describes_itself("plain_convolutions")
    def __init__(self, width: int = 32, in_channels: int = 3):
        super().__init__()
        self.in_channels = in_channels
        channels = (width, 2 * width, 4 * width)
        self.stem = nn.Sequential(nn.Conv2d(in_channels, width, 4, 4), nn.ReLU())
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, 2, 1)
            for before, after in zip((width, *channels), channels, strict=False)
        )
        self.feature_info = {
            f"c{level}": backbones.FeatureInfo(c, 2**level)
            for level, c in zip((3, 4, 5), channels, strict=True)
        }
        self.stages = (("stem",), *((f"convolutions.{i}",) for i in range(3)))  # for freezing

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.check_images(images)
        x, maps = self.stem(images), {}
        for level, convolution in zip(self.feature_info, self.convolutions, strict=True):
            maps[level] = x = convolution(x).relu()
        return maps


if __name__ == "__main__":
    pyramid = backbones.with_fpn(PlainConvolutions(), channels=64)
    print(pyramid.feature_info)  # p3 to p6
    preprocessing = Preprocessing(short_side=None)  # the scenes have their size already
    data = DataModule(tasks.data.open("digits", num_train=8), preprocessing, batch_size=4)
    head = DenseHead(64, num_classes=10, num_anchors=9, layers=1, width=64, norm="group", bias=False)
    octaves = [
        tuple(4 * info.stride * 2 ** (n / 3) for n in range(3)) for info in pyramid.feature_info.values()
    ]
    grid = AnchorGrid(octaves, ratios=(0.5, 1.0, 2.0))
    detector = RetinaNet(pyramid, [head], preprocessing, grid, RetinaNetSettings())
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    for batch in data.train_dataloader():
        losses = detector.losses(detector.features(batch), batch)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        optimizer.step()
        print({name: round(loss.item(), 3) for name, loss in losses.items()})
