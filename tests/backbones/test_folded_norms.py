"""Fixed norms folded into their convolutions against the two in turn."""

import copy
import sys
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

import backbones
from backbones.layers import ConvNormSequential, FrozenBatchNorm2d, _one_pass, conv_then_norm, make_norm
from tasks.detection.dense_head import DenseHead, predict_levels


def one_after_another(conv, norm, x, *, residual=None, relu=False):
    y = conv(x) if norm is None else norm(conv(x))
    y = y if residual is None else y + residual
    return nn.functional.relu(y) if relu else y


def lively(module: nn.Module) -> nn.Module:
    """Norms of which no number is that of a fresh one."""
    generator = torch.Generator().manual_seed(0)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d | FrozenBatchNorm2d):
            for name, low, high in (("weight", 0.5, 1.5), ("bias", -1, 1), ("running_mean", -1, 1)):
                tensor = getattr(norm, name)
                tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
            norm.running_var.copy_(torch.rand(norm.running_var.shape, generator=generator) + 0.3)  # type: ignore
    return module


def unfolded(network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> nn.Module:
    """A copy that runs every convolution and norm in turn."""
    for module in ("layers", "resnet"):
        place = sys.modules[f"backbones.{module}"]  # `backbones.resnet` is a function
        monkeypatch.setattr(place, "conv_then_norm", one_after_another)
    return copy.deepcopy(network)


def gradients(output: Tensor, module: nn.Module, x: Tensor) -> dict[str, Tensor]:
    module.zero_grad()
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(3))
    (output * weights).sum().backward()
    assert x.grad is not None
    found = {"x": x.grad.clone()} | {
        n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None
    }
    x.grad = None
    return found


@pytest.mark.parametrize("kind", ["frozen", "batch"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_one_layer_equals_the_two_in_turn(kind: str, bias: bool, groups: int) -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups, bias=bias)
    layers = lively(nn.Sequential(conv, make_norm(kind, 12))).eval()
    x = torch.randn(2, 8, 9, 7).requires_grad_()
    expected = layers(x)
    found = conv_then_norm(layers[0], layers[1], x)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=2e-6)
    theirs, ours = gradients(expected, layers, x), gradients(found, layers, x)
    assert theirs.keys() == ours.keys()
    assert kind == "frozen" or "1.weight" in ours
    for name, gradient in theirs.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"stem": "deep", "downsample": "pool"}, {"block": "basic"}])
def test_a_network_computes_the_same_under_the_same_names(options: dict, monkeypatch) -> None:
    torch.manual_seed(0)
    network = backbones.create("resnet", blocks=(1, 1, 1, 2), norm="frozen", **options)
    network = lively(backbones.with_fpn(network, channels=16, norm="frozen"))
    x = torch.randn(2, 3, 64, 96).requires_grad_()
    found = network(x)
    ours = gradients(found["p2"], network, x)
    reference = unfolded(network, monkeypatch)
    expected = reference(x)
    theirs = gradients(expected["p2"], reference, x)
    for level, value in expected.items():
        scale = value.abs().max()
        torch.testing.assert_close(found[level] / scale, value / scale, rtol=0, atol=1e-5)
    for name, gradient in theirs.items():
        scale = gradient.abs().max().clamp(min=1e-9)
        torch.testing.assert_close(ours[name] / scale, gradient / scale, rtol=0, atol=1e-4)
    assert list(network.state_dict()) == list(reference.state_dict())


def test_a_norm_that_learns_its_statistics_is_left_alone() -> None:
    torch.manual_seed(0)
    layers = ConvNormSequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU()).train()
    x = torch.randn(5, 3, 4, 4) * 3 + 1
    out = layers(x)
    assert not torch.equal(layers[1].running_mean, torch.zeros(4))  # type: ignore[arg-type]
    torch.testing.assert_close(out, nn.functional.relu(layers[1](layers[0](x))))


def test_bfloat16_saves_one_map_a_layer() -> None:
    """What a frozen network keeps for the backward pass: half as much as norms after the convolutions."""
    torch.manual_seed(0)
    layers = ConvNormSequential(nn.Conv2d(8, 8, 3, padding=1), make_norm("frozen", 8), nn.ReLU(inplace=True))
    x = torch.randn(1, 8, 32, 32).requires_grad_()
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    map_bytes = 2 * x.numel()
    with torch.autocast("cpu", torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        layers(x)
    assert sum(kept.values()) < 2.5 * map_bytes  # the input in bf16, the output, and weights


@pytest.mark.parametrize("eps", [(1e-5, 1e-5), (1e-5, 0.0)])
def test_frozen_norms_worked_out_together_give_the_same_bits(eps: tuple[float, float]) -> None:
    torch.manual_seed(0)
    model = lively(backbones.resnet18(norm="frozen", frozen_stages=1))
    for number, norm in enumerate(m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)):
        norm.eps = eps[number % 2]
    images = torch.randn(2, 3, 64, 96)

    def step() -> tuple[dict[str, Tensor], list[Tensor | None]]:
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            maps = model(images)
        sum(level.float().square().mean() for level in maps.values()).backward()
        return maps, [parameter.grad for parameter in model.parameters()]

    before, wanted = step()
    with _one_pass(model, torch.bfloat16):
        assert all(
            "_scale_and_shift" in m.__dict__ for m in model.modules() if isinstance(m, FrozenBatchNorm2d)
        )
        after, found = step()
    for name, level in before.items():
        assert torch.equal(level, after[name])
    for one, other in zip(wanted, found, strict=True):
        assert (one is None and other is None) or (
            one is not None and other is not None and torch.equal(one, other)
        )
    assert not any(key in m.__dict__ for m in model.modules() for key in ("_scale_and_shift", "_casts"))


def test_a_checkpointed_stage_runs_again_after_the_pass() -> None:
    """Then its norms are worked out one by one, which must save the same tensors and give the same gradients."""
    torch.manual_seed(0)
    plain = lively(backbones.resnet18(norm="frozen"))
    repeated = backbones.resnet18(norm="frozen", checkpoint_stages=(1, 2, 3, 4))
    repeated.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for model in (plain, repeated):
        with _one_pass(model, torch.bfloat16), torch.autocast("cpu", torch.bfloat16):
            maps = model(images)
        sum(level.float().square().mean() for level in maps.values()).backward()
    for one, other in zip(plain.parameters(), repeated.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None and torch.equal(one.grad, other.grad)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_one_pass_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    body = backbones.resnet18(norm="frozen", frozen_stages=0).cuda().to(memory_format=torch.channels_last)
    head = DenseHead(128, num_classes=3, num_anchors=1, layers=2, width=128, norm=None, bias=True).cuda()
    heads = torch.nn.ModuleList([head.to(memory_format=torch.channels_last)])
    images = torch.randn(2, 3, 128, 192, device="cuda").to(memory_format=torch.channels_last)

    def step() -> tuple[Tensor, list[Tensor | None]]:
        parameters = [*body.parameters(), *heads.parameters()]
        for parameter in parameters:
            parameter.grad = None
        with torch.autocast("cuda", torch.bfloat16):
            level = body(images)["c3"]
            found = predict_levels(
                heads, [level, level[..., ::2, ::2].contiguous(memory_format=torch.channels_last)], images
            )
        (found.logits.float().square().mean() + found.deltas.float().square().mean()).backward()
        return found.logits, [parameter.grad for parameter in parameters]

    logits, gradients = step()
    for module in ("backbones.resnet", "tasks.detection.dense_head"):
        monkeypatch.setattr(sys.modules[module], "one_pass", lambda model, x: nullcontext())
    plain, wanted = step()
    torch.testing.assert_close(logits, plain, rtol=0, atol=0)
    for one, other in zip(gradients, wanted, strict=True):
        if one is not None and other is not None:
            assert (one - other).norm() <= 0.02 * other.norm()
