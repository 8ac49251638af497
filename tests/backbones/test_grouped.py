"""Gradients of convolutions in groups on a CPU: near those of float32, and the same outputs."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones.grouped import quick_groups

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {  # channels in, channels out, options
    "depthwise, 5 x 5": (8, 8, {"kernel_size": 5, "padding": 2, "groups": 8, "bias": False}),
    "depthwise, stride": (8, 8, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 8}),
    "depthwise, two of each": (8, 16, {"kernel_size": 7, "padding": (3, 1), "groups": 8}),
    "groups of two, dilated": (8, 12, {"kernel_size": 3, "dilation": 2, "padding": 2, "groups": 4}),
}


def step(conv: nn.Conv2d, x: Tensor, *, quick: bool) -> tuple[Tensor, list[Tensor]]:
    x = x.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16), quick_groups(x) if quick else nullcontext():
        y = conv(x)
    return y, list(torch.autograd.grad((y.float() ** 2).sum(), [x, *conv.parameters()]))


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_equal_and_gradients_no_further_from_the_truth(name: str) -> None:
    torch.manual_seed(0)
    channels, width, options = CASES[name]
    conv, x = nn.Conv2d(channels, width, **options), torch.randn(2, channels, 13, 10)
    quick, plain = step(conv, x, quick=True), step(conv, x, quick=False)
    assert torch.equal(quick[0], plain[0]) and quick[0].grad_fn is not plain[0].grad_fn
    assert type(quick[0].grad_fn) is not type(plain[0].grad_fn)
    exact = x.bfloat16().double().requires_grad_()
    rounded = nn.Conv2d(channels, width, **options).double()
    rounded.load_state_dict({key: value.bfloat16().double() for key, value in conv.state_dict().items()})
    seed = 2 * quick[0].detach().double()
    truth = torch.autograd.grad(rounded(exact), [exact, *rounded.parameters()], seed)
    for ours, usual, true in zip(quick[1], plain[1], truth, strict=True):
        size = true.abs().max()
        far = [((found.double() - true).abs().max() / size).item() for found in (ours, usual)]
        assert far[0] < 0.01 and far[0] < 1.1 * far[1] + 1e-4, far


@pytest.mark.parametrize("options", [{"kernel_size": 3, "groups": 8}, {"kernel_size": 5, "groups": 1}])
def test_what_is_quick_already_is_left_alone(options: dict[str, Any]) -> None:
    conv, x = nn.Conv2d(8, 8, **options), torch.randn(1, 8, 9, 9)
    quick, plain = step(conv, x, quick=True), step(conv, x, quick=False)
    assert type(quick[0].grad_fn) is type(plain[0].grad_fn)


def test_networks_of_torchvision_train_with_it() -> None:
    torch.manual_seed(0)
    extractor = backbones.create("efficientnet_b0", freeze_norms=True).train()
    images = torch.randn(1, 3, 64, 64)

    def gradients() -> tuple[Tensor, dict[str, Tensor]]:
        extractor.zero_grad()
        torch.manual_seed(1)  # of stochastic depth
        with torch.autocast("cpu", torch.bfloat16):
            maps = extractor(images)
        maps["c5"].float().square().sum().backward()
        return maps["c5"], {n: p.grad for n, p in extractor.named_parameters() if p.grad is not None}

    ours = gradients()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("backbones.adapter.quick_groups", lambda x: nullcontext())
        theirs = gradients()
    assert torch.equal(ours[0], theirs[0]) and list(ours[1]) == list(theirs[1])
    for name, gradient in theirs[1].items():
        assert (ours[1][name] - gradient).norm() <= 0.05 * gradient.norm(), name
