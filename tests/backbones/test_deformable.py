"""Deformable convolutions: plain ones at the start, torchvision's operator on a CPU too, and by hand."""

import warnings

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

import backbones
from backbones.deformable import DeformableConv2d

SMALL = {"block": "basic", "blocks": [1, 1, 1, 1], "widths": [8, 16, 24, 32]}


def lively(*args, **kwargs) -> DeformableConv2d:
    torch.manual_seed(0)
    conv = DeformableConv2d(*args, bias=False, **kwargs)
    torch.nn.init.normal_(conv.offsets.weight, std=0.3)
    return conv


@pytest.mark.parametrize(
    "options",
    [
        {"padding": 1},
        {"padding": 1, "stride": 2},
        {"padding": 2, "dilation": 2, "groups": 2},
        {"padding": 1, "groups": 4},
        {"kernel_size": (3, 2), "padding": (1, 0), "stride": (1, 2)},
    ],
)
def test_values_and_gradients_are_those_of_torchvisions_operator(options: dict) -> None:
    conv = lively(8, 12, **{"kernel_size": 3, **options})
    cells = conv.size[0] * conv.size[1]
    images = torch.randn(2, 8, 9, 7).requires_grad_()
    found = conv(images)
    shifts, counts = conv.offsets(images).split([2 * cells, cells], dim=1)
    geometry = conv.stride, conv.padding, conv.dilation
    expected = deform_conv2d(images, shifts, conv.weight, None, *geometry, 2 * counts.sigmoid())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    wanted = [images, conv.weight, conv.offsets.weight, conv.offsets.bias]
    weights = torch.randn(found.shape)
    pairs = zip(*(torch.autograd.grad((y * weights).sum(), wanted) for y in (found, expected)), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_places_by_hand() -> None:
    """A kernel that reads its middle alone, half a pixel to the right of each cell, and counts half of it."""
    conv = DeformableConv2d(1, 1, 3, padding=1, bias=False)
    torch.nn.init.zeros_(conv.weight)
    with torch.no_grad():
        conv.weight[0, 0, 1, 1] = 1
        conv.offsets.bias[2 * 4 + 1] = 0.5
        conv.offsets.bias[18 + 4] = -torch.log(torch.tensor(3.0))  # sigmoid 1/4
        found = conv(torch.tensor([[[[2.0, 4.0, 8.0], [0.0, 0.0, 10.0]]]]))
    expected = torch.tensor([[[[3.0, 6.0, 4.0], [0.0, 5.0, 5.0]]]]) / 2  # beyond the last pixel is 0
    torch.testing.assert_close(found, expected)


def test_a_shift_that_is_no_number_makes_a_result_that_is_none() -> None:
    """So that whoever looks at losses finds it; far away there is nothing."""
    conv = DeformableConv2d(1, 1, 1, bias=False)
    images = torch.ones(1, 1, 2, 2)
    for shift, is_number in ((float("nan"), False), (float("inf"), False), (1e20, True), (-1e20, True)):
        torch.nn.init.constant_(conv.offsets.bias, shift)
        found = conv(images)
        assert found.isfinite().all() == is_number and (not is_number or not found.any())


@pytest.mark.parametrize("bf16", [False, True])
def test_one_cell_and_autocast(bf16: bool) -> None:
    conv = lively(4, 4, 3, padding=1)
    images = torch.randn(1, 4, 1, 1, dtype=torch.bfloat16 if bf16 else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found = conv(images.contiguous(memory_format=torch.channels_last))
    assert found.dtype == images.dtype and found.isfinite().all()


@pytest.mark.parametrize("name", ["resnet18", "resnet50d", "plain_resnet18", "cifar_resnet20"])
def test_weights_of_plain_convolutions_load_and_compute_the_same(name: str) -> None:
    torch.manual_seed(0)
    plain = backbones.create(name).eval()
    stages = [1, 2] if name.startswith("cifar") else [2, 3, 4, 5]
    deformable = backbones.create(name, deformable_stages=stages).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = backbones.load_weights(deformable, plain.state_dict())
    assert report.missing == report.left_over == [] and report.reshaped == {}
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for level, expected in plain(images).items():
            found = deformable(images)[level]
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))
    count = sum(isinstance(module, DeformableConv2d) for module in deformable.modules())
    assert count == {"resnet18": 16, "resnet50d": 16, "plain_resnet18": 16, "cifar_resnet20": 12}[name]


def products(extractor: torch.nn.Module, images: Tensor) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        extractor(images)
    return counter.get_total_flops()


def test_its_products_are_counted() -> None:
    plain, deformable = (
        backbones.create("resnet", **SMALL, deformable_stages=stages) for stages in ([], [4])
    )
    images = torch.zeros(2, 3, 64, 64)
    added = 2 * 2 * 4 * 4 * 27 * 9 * (16 + 24)  # both offsets, of two images of 4 x 4 cells
    assert products(deformable, images) - products(plain, images) == added
    with torch.device("meta"):
        meta = backbones.create("resnet", **SMALL, deformable_stages=[4])
    assert products(meta, images.to("meta")) == products(deformable, images)


@pytest.mark.parametrize("stages", [[1], [6], ["c3"], "345"])
def test_unknown_stages_are_one_sentence(stages) -> None:
    with pytest.raises(ValueError, match=r"deformable_stages=.*(2 \(c2\) to 5 \(c5\)|must be)"):
        backbones.create("resnet18", deformable_stages=stages)


def test_frozen_stages_freeze_offsets_too() -> None:
    extractor = backbones.create("resnet", **SMALL, deformable_stages=[2, 3], frozen_stages=1)
    frozen = {name for name, p in extractor.named_parameters() if not p.requires_grad}
    assert "layer1.0.conv1.offsets.weight" in frozen and "layer2.0.conv1.offsets.weight" not in frozen


def test_export_has_the_operator() -> None:
    extractor = backbones.create("resnet", **SMALL, deformable_stages=[4, 5]).eval()
    for module in extractor.modules():
        if isinstance(module, DeformableConv2d):
            torch.nn.init.normal_(module.offsets.weight, std=0.1)
    images = torch.randn(2, 3, 64, 96)
    sizes = ({0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO, 3: torch.export.Dim.AUTO},)
    with torch.no_grad():
        exported = torch.export.export(extractor, (images,), dynamic_shapes=sizes)
        called = [node.target for node in exported.graph.nodes]
        assert called.count(torch.ops.torchvision.deform_conv2d.default) == 4
        for shape in (images.shape, (1, 3, 96, 128)):
            images = torch.randn(*shape)
            expected = extractor(images)
            for level, found in exported.module()(images).items():
                torch.testing.assert_close(found, expected[level], rtol=1e-3, atol=1e-3)
