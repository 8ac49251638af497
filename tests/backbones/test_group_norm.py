"""Group norm in bf16 on a CPU against `nn.GroupNorm` in float64."""

import pytest
import torch
from torch import Tensor, nn

from backbones.layers import make_norm


def gradients(norm: nn.Module, x: Tensor, slope: Tensor) -> dict[str, Tensor | None]:
    x = x.detach().requires_grad_()
    y = norm(x)
    y.backward(slope.to(y.dtype))
    return {"y": y.detach(), "x": x.grad, **{name: p.grad for name, p in norm.named_parameters()}}


@pytest.mark.parametrize("channels", [64, 512])  # few and many in each of 32 groups
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_bf16_maps_have_the_gradients_of_exact_ones(channels: int, memory_format) -> None:
    torch.manual_seed(0)
    norm = make_norm("group", channels)
    nn.init.uniform_(norm.weight, 0.5, 1.5)  # type: ignore[arg-type]
    exact = nn.GroupNorm(32, channels).double()
    exact.load_state_dict(norm.state_dict())
    x, slope = (
        torch.randn(2, channels, 9, 7).bfloat16().contiguous(memory_format=memory_format) for _ in range(2)
    )
    found, wanted = gradients(norm, x, slope), gradients(exact, x.double(), slope.double())
    tolerance = {"y": 2e-2, "x": 2e-2, "weight": 1e-4, "bias": 1e-5}  # a map's is one rounding to bf16
    for name, value in wanted.items():
        assert value is not None
        torch.testing.assert_close(found[name].double(), value, rtol=1e-2, atol=tolerance[name])  # type: ignore
    assert found["x"].is_contiguous(memory_format=memory_format)  # type: ignore[union-attr]


def test_frozen_parts_have_no_gradient() -> None:
    norm = make_norm("group", 8)
    norm.bias.requires_grad_(False)  # type: ignore[union-attr]
    x = torch.randn(1, 8, 4, 4, dtype=torch.bfloat16)
    found = gradients(norm, x, torch.ones_like(x))
    assert found["bias"] is None and found["weight"] is not None
    norm(x).sum().backward()  # of images, which have no gradient either
    norm.zero_grad()
    found = gradients(norm, x[:0], x[:0])  # of no boxes at all
    assert found["y"].shape == x[:0].shape and not found["weight"].any()  # type: ignore[union-attr]
    with torch.autocast("cpu", torch.bfloat16):
        assert norm(x).dtype == torch.bfloat16
