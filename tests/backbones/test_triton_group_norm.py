"""The CUDA group norm beside torch's, by Triton's interpreter, which needs no GPU."""

import pytest
import torch
from packaging.version import Version
from torch.nn import functional as F

from backbones.kernels import compiles_kernels

triton = pytest.importorskip("triton")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="kernels are compiled here, not interpreted"),
    pytest.mark.skipif(
        Version(triton.__version__) < Version("3.7"),
        reason="its interpreter does not take arrays of numpy 2.4",
    ),
]


@pytest.fixture
def group_norm():
    from backbones.triton_group_norm import GroupNormChannelsLast

    return GroupNormChannelsLast


def test_a_cpu_compiles_none() -> None:
    assert not compiles_kernels(torch.device("cpu"))


@pytest.mark.parametrize(("shape", "groups"), [((2, 64, 9, 7), 32), ((1, 32, 64, 40), 2), ((3, 16, 1, 3), 4)])
def test_values_and_gradients_are_torchs(shape, groups: int, group_norm) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (
        torch.randn(shape, generator=generator) * 3 + 20
    )  # a mean far from 0, which sums of squares would lose
    x = x.to(memory_format=torch.channels_last).requires_grad_()
    weight, bias = torch.randn(2, shape[1], generator=generator).unbind()
    inputs = x, weight.requires_grad_(), bias.requires_grad_()
    slope = torch.randn(shape, generator=generator)
    assert group_norm.takes(x, groups)
    found = group_norm.apply(*inputs, groups, 1e-5)
    exact = [value.detach().double().requires_grad_() for value in inputs]
    expected = F.group_norm(exact[0], groups, *exact[1:], eps=1e-5)
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-4)
    ours = torch.autograd.grad(found, inputs, slope)
    for one, other in zip(ours, torch.autograd.grad(expected, exact, slope.double()), strict=True):
        torch.testing.assert_close(one.double(), other, atol=2e-4, rtol=1e-3)


def test_what_it_does_not_take(group_norm) -> None:
    last = torch.ones(1, 48, 4, 4).to(memory_format=torch.channels_last)
    assert not group_norm.takes(last, 8)  # 48 channels are no power of two
    assert not group_norm.takes(torch.ones(1, 64, 4, 4), 8)  # NCHW
