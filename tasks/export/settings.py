"""`ExportSettings`: how a trained model becomes a file for other programs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Format = Literal["onnx", "torch_export"]
Input = Literal["auto", "pictures", "network"]
Precision = Literal["fp32", "int8"]


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is written, and what it is held to before it gets its name."""

    format: Format = "onnx"
    """onnx, which runs without torch; or torch_export, a .pt2 for torch and torchvision alone."""
    input: Input = "auto"
    """pictures: uint8 (B, H, W, 3), resized in the graph; network: padded batches. auto: pictures where that can be."""
    precision: Precision = "fp32"
    """fp32, or int8: quantised after looking at images of data=."""
    model: Mapping[str, Any] = field(default_factory=dict)
    """Other settings than the file's: score_threshold, nms_threshold, max_detections, …"""
    split: Literal["train", "val", "test"] = "val"
    """Of data=: pictures that the file must find the same in as the model, and that int8 is scored on."""
    num_pictures: int = 12
    """Of that split, which go through the predictor and through the file from end to end."""
    num_calibration: int = 64
    """Images that int8 takes its ranges from: of the train split where there is one."""
    max_drop: float = 0.01
    """Most that int8 may lose of what the task is judged by (AP, mask_AP, mIoU, top1)."""
    tile: int | None = None
    """Tiles and …"""
    scales: Sequence[float] = (1.0,)
    """… several views of a picture …"""
    flip: bool = False
    """… are for predict, and no part of a file."""

    def __post_init__(self) -> None:
        for name, kind in (("format", Format), ("input", Input), ("precision", Precision)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(
                    f"{name}={getattr(self, name)} is unknown; wanted {' or '.join(get_args(kind))}"
                )
        if self.tile is not None or list(self.scales) != [1.0] or self.flip:
            raise ValueError(
                "tile=, scales= and flip= are what predict does with a picture before and after the network, and no "
                "part of a file; leave them out"
            )
        if self.num_pictures < 1 or self.num_calibration < 1 or self.max_drop < 0:
            raise ValueError(
                f"num_pictures={self.num_pictures} and num_calibration={self.num_calibration} must be at least 1, "
                f"max_drop={self.max_drop} at least 0"
            )
        if self.format == "torch_export" and (self.precision == "int8" or self.input == "pictures"):
            raise ValueError(
                "format=torch_export is a network in fp32 (input=network, precision=fp32); int8 and pictures as input "
                "need format=onnx"
            )
