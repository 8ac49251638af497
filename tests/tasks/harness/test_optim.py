"""Parameter groups and schedules."""

import torch
from torch import nn

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


def test_every_trainable_parameter_is_in_exactly_one_group() -> None:
    model = Toy()
    ids = [id(p) for group in parameter_groups(model) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters() if p.requires_grad)


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
