"""Parameter groups, and learning-rate schedules as functions of the step."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from backbones.checks import check_types, suggest
from backbones.deformable import DeformableConv2d
from tasks.contracts import Model


def parameter_groups(
    model: Model, *, backbone_lr_scale: float = 1.0, offsets_lr_scale: float = 0.1
) -> list[dict[str, Any]]:
    """Trainable parameters by what they are: vectors (norms, biases) do not decay, the backbone has its own rate,
    and in it the offsets of deformable convolutions have theirs.

    The backbone is `model.backbone.backbone` where it carries a pyramid, else `model.backbone`. Each
    group has `name` and `lr_scale`; `build_optimizer` multiplies the learning rate by the latter.
    """
    backbone: nn.Module = getattr(model.backbone, "backbone", model.backbone)
    part_of = {id(p): "backbone" for p in backbone.parameters()}
    for module in backbone.modules():
        if isinstance(module, DeformableConv2d):
            part_of |= {id(p): "offsets" for p in module.offsets.parameters()}
    scales = {"backbone": backbone_lr_scale, "offsets": backbone_lr_scale * offsets_lr_scale, "head": 1.0}
    groups: dict[tuple[str, bool], dict[str, Any]] = {
        (part, decays): {
            "name": part + ("" if decays else "_no_decay"),
            "params": [],
            "lr_scale": scale,
            **({} if decays else {"weight_decay": 0.0}),
        }
        for part, scale in scales.items()
        for decays in (True, False)
    }
    for parameter in model.parameters():
        if parameter.requires_grad:
            part = part_of.get(id(parameter), "head")
            groups[part, parameter.ndim > 1]["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]


def build_optimizer(model: Model, optimizer: Callable[..., Optimizer], **lr_scales: float) -> Optimizer:
    """`optimizer` (a partial, learning rate included) over the `parameter_groups` of `model` with these scales.

    Those that can update a parameter in one pass do, unless the partial says fused=False: a third of the time on a CPU.
    """
    options = inspect.signature(optimizer).parameters
    fused = {"fused": True} if "fused" in options and options["fused"].default is None else {}
    built = optimizer(parameter_groups(model, **lr_scales), **fused)
    if built.defaults.get("fused"):
        # Gradients of fp16 are unscaled before the step, as for any other optimizer, so that they can be clipped.
        built._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        built.register_load_state_dict_post_hook(_lay_out_state)
    for group in built.param_groups:
        group["lr"] *= group.pop("lr_scale")
    return built


def _lay_out_state(optimizer: Optimizer) -> None:
    """Puts moments that were loaded in the order in memory of their parameters, which one pass goes through side by
    side: on a CPU, torch does not look whether they agree."""
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def warmup_cosine(
    optimizer: Optimizer, total_steps: int, *, warmup: float = 0.1, final: float = 0.0
) -> LambdaLR:
    """Linear warm-up over the first `warmup` share of the steps, then half a cosine down to `final` x the rate."""
    ramp_steps = max(1, round(warmup * total_steps))

    def factor(step: int) -> float:
        if step < ramp_steps:
            return (step + 1) / ramp_steps
        progress = min(1.0, (step - ramp_steps) / max(1, total_steps - ramp_steps))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)


def warmup_steps(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup: int = 1000,
    milestones: tuple[float, ...] = (2 / 3, 8 / 9),
    gamma: float = 0.1,
) -> LambdaLR:
    """Linear warm-up over `warmup` steps from a thousandth, then the rate times `gamma` at each milestone.

    Milestones are shares of all steps; the default is the 1x schedule of detectron2 (60k and 80k of 90k).
    """

    def factor(step: int) -> float:
        ramp = min(1.0, 0.001 + step / warmup) if warmup else 1.0
        return ramp * gamma ** sum(step >= milestone * total_steps for milestone in milestones)

    return LambdaLR(optimizer, factor)


def constant(optimizer: Optimizer, total_steps: int) -> LambdaLR:
    """The same rate at every step."""
    return LambdaLR(optimizer, lambda step: 1.0)


def optimizer_factory(
    name: str | Callable[..., Optimizer], *, lr: float, **options: Any
) -> Callable[..., Optimizer]:
    """What makes the optimiser called `name` of groups of parameters. ValueError for an unknown one or option."""
    build = optimizer_class(name) if isinstance(name, str) else name
    check_options("optimizer", build, options, known={"lr"}, given={"params"})
    return partial(build, lr=lr, **options)


def optimizer_class(name: str) -> type[Optimizer]:
    """The class of `torch.optim` called `name`, or `torch.optim.<name>`."""
    known = {
        key: value
        for key, value in vars(torch.optim).items()
        if isinstance(value, type) and issubclass(value, Optimizer) and value is not Optimizer
    }
    short = name.removeprefix("torch.optim.")
    if short not in known:
        raise ValueError(f"optimizer {name!r} is not in torch.optim; {suggest(short, known)}")
    return known[short]


def schedule_factory(
    name: str | Callable[..., LRScheduler], **options: Any
) -> Callable[[Optimizer, int], LRScheduler]:
    """What makes the schedule called `name` of an optimiser and the number of steps. ValueError for an unknown one
    or option."""
    known = {"constant": constant, "warmup_cosine": warmup_cosine, "warmup_steps": warmup_steps}
    if isinstance(name, str) and name not in known:
        raise ValueError(f"schedule {name!r} is unknown; {suggest(name, known)}")
    build = known[name] if isinstance(name, str) else name
    check_options("schedule", build, options, given={"optimizer", "total_steps"})
    return partial(build, **options)


def check_options(
    key: str,
    build: Callable[..., Any],
    options: Mapping[str, Any],
    *,
    known: Iterable[str] = (),
    given: Iterable[str] = (),
) -> None:
    """Raises ValueError with the nearest name for an option that `build` does not take, those `given` to it apart, and
    for one of the wrong type."""
    parameters = inspect.signature(build).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    names = {*parameters, *known} - set(given)
    for option in options:
        if option not in names:
            raise ValueError(
                f"unknown setting '{key}.{option}'; {suggest(f'{key}.{option}', [f'{key}.{n}' for n in names])}"
            )
    check_types(f"{key}.", build, options)
