"""ResNets for images of 32x32 pixels, as the paper trains them on CIFAR-10 (section 4.2)."""

from collections.abc import Sequence
from functools import partial
from typing import Literal

from .layers import Norm
from .resnet import ResNet


def cifar_resnet(
    *,
    depth: int,
    in_channels: int = 3,
    shortcut: Literal["A", "B", "C", "none"] = "A",
    norm: Norm = "batch",
    norm_eps: float = 1e-5,
    zero_init_residual: bool = False,
    frozen_stages: int | None = None,
    checkpoint_stages: Sequence[int] = (),
    deformable_stages: Sequence[int] = (),
) -> ResNet:
    """A network of `depth` weighted layers, classifier included: 6n + 2 for n basic blocks in each stage.

    Maps c0, c1, c2 have 16, 32, 64 channels at strides 1, 2, 4. The other options are those of `ResNet`.
    """
    # A configuration file may give anything.
    if not isinstance(depth, int) or depth < 8 or (depth - 2) % 6:  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"depth={depth!r} must be 6n + 2 with n from 1 up, as 20, 32, 44, 56 or 110 are")
    return ResNet(
        blocks=((depth - 2) // 6,) * 3,
        block="basic",
        widths=(16, 32, 64),
        stem="3x3",
        in_channels=in_channels,
        shortcut=shortcut,
        norm=norm,
        norm_eps=norm_eps,
        zero_init_residual=zero_init_residual,
        frozen_stages=frozen_stages,
        checkpoint_stages=checkpoint_stages,
        deformable_stages=deformable_stages,
    )


cifar_resnet20 = partial(cifar_resnet, depth=20)
cifar_resnet32 = partial(cifar_resnet, depth=32)
cifar_resnet44 = partial(cifar_resnet, depth=44)
cifar_resnet56 = partial(cifar_resnet, depth=56)
cifar_resnet110 = partial(cifar_resnet, depth=110)
cifar_resnet1202 = partial(cifar_resnet, depth=1202)
