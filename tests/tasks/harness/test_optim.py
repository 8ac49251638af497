"""Parameter groups and schedules."""

from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import Tensor, nn

import backbones
from tasks.contracts import Model
from tasks.harness.optim import build_optimizer, constant, parameter_groups, warmup_cosine, warmup_steps


class Toy(Model):
    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)
        self.frozen = nn.Linear(2, 2)
        self.frozen.requires_grad_(False)


def test_vectors_do_not_decay_and_the_backbone_has_its_own_rate() -> None:
    optimizer = build_optimizer(
        Toy(), lambda groups: torch.optim.AdamW(groups, lr=1.0, weight_decay=0.5), backbone_lr_scale=0.1
    )
    groups = {
        g["name"]: (g["lr"], g["weight_decay"], [tuple(p.shape) for p in g["params"]])
        for g in optimizer.param_groups
    }
    assert groups == {
        "backbone": (0.1, 0.5, [(4, 3, 3, 3)]),
        "backbone_no_decay": (0.1, 0.0, [(4,), (4,), (4,)]),
        "head": (1.0, 0.5, [(2, 4)]),
        "head_no_decay": (1.0, 0.0, [(2,)]),
    }


def test_offsets_of_deformable_convolutions_have_their_own_rate() -> None:
    model = Toy()
    model.backbone = backbones.create(
        "resnet", block="basic", blocks=[1, 1], widths=[4, 8], deformable_stages=[3]
    )
    optimizer = build_optimizer(model, partial(torch.optim.SGD, lr=1.0), backbone_lr_scale=0.5)
    groups = {g["name"]: (g["lr"], [tuple(p.shape) for p in g["params"]]) for g in optimizer.param_groups}
    assert groups["offsets"] == (0.05, [(27, 4, 3, 3), (27, 8, 3, 3)])
    assert groups["offsets_no_decay"] == (0.05, [(27,), (27,)])
    assert groups["backbone"][0] == 0.5 and groups["head"][0] == 1.0
    built = build_optimizer(model, partial(torch.optim.SGD, lr=1.0), offsets_lr_scale=1.0)
    assert all(group["lr"] == 1.0 for group in built.param_groups)


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = Toy()
    ids = [id(p) for group in parameter_groups(model) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_optimizers_that_can_update_all_parameters_in_one_pass_do() -> None:
    assert build_optimizer(Toy(), partial(torch.optim.AdamW, lr=1.0)).defaults["fused"]
    assert build_optimizer(Toy(), partial(torch.optim.SGD, lr=1.0)).defaults["fused"]
    assert not build_optimizer(Toy(), partial(torch.optim.AdamW, lr=1.0, fused=False)).defaults["fused"]
    build_optimizer(Toy(), partial(torch.optim.RMSprop, lr=1.0))  # which cannot
    # Lightning clips no gradients of optimizers that say so.
    assert not build_optimizer(
        Toy(), partial(torch.optim.AdamW, lr=1.0, fused=True)
    )._step_supports_amp_scaling  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [torch.optim.AdamW, partial(torch.optim.SGD, momentum=0.9)])
def test_one_pass_equals_several_whatever_the_order_in_memory(kind) -> None:
    def weights(fused: bool, state: dict | None = None) -> tuple[list[Tensor], dict]:
        torch.manual_seed(0)
        model = Toy().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = build_optimizer(model, partial(kind, lr=0.1, **({} if fused else {"fused": False})))
        if state is not None:
            optimizer.load_state_dict(state)
        for _ in range(3):
            images = torch.randn(2, 3, 8, 8)  # whose gradients do not lie as the weights do by themselves
            model.head(model.backbone[0](images).mean((2, 3))).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        return [p.detach() for p in model.parameters()], deepcopy(optimizer.state_dict())

    found, state = weights(fused=True)
    torch.testing.assert_close(found, weights(fused=False)[0], rtol=1e-5, atol=1e-6)
    # A state of another origin may lie otherwise.
    for values in state["state"].values():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.ndim == 4:
                assert not value.is_contiguous()
                values[name] = value.contiguous()
    unfused = deepcopy(state)
    for group in unfused["param_groups"]:
        group["fused"] = False
    torch.testing.assert_close(
        weights(fused=True, state=state)[0], weights(fused=False, state=unfused)[0], rtol=1e-5, atol=1e-6
    )


def rates(schedule, steps: int, **options) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = schedule(optimizer, steps, **options)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_warmup_cosine() -> None:
    seen = rates(warmup_cosine, 12, warmup=2 / 12)
    assert seen[:3] == [0.5, 1.0, 1.0]
    torch.testing.assert_close(seen[7], 0.5)  # half way down after 5 of 10 steps
    assert seen[-1] < 0.03
    assert seen[2:] == sorted(seen[2:], reverse=True)


def test_warmup_steps_is_the_1x_schedule() -> None:
    seen = rates(warmup_steps, 90, warmup=10)
    torch.testing.assert_close(seen[:2], [0.001, 0.101])
    assert [round(seen[i], 6) for i in (10, 59, 60, 79, 80)] == [1.0, 1.0, 0.1, 0.1, 0.01]


def test_constant() -> None:
    assert set(rates(constant, 5)) == {1.0}
