"""Resuming a run: what may change, and whether its checkpoint is accepted, before a byte of the run is written."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from backbones.untrusted import check_finite, check_plain, check_tensors, first_line
from tasks.harness.checkpoints import BestCheckpoint
from tasks.harness.exact_resume import EXACT_RESUME, random_state, set_random_state
from tasks.harness.optim import build_optimizer
from tasks.harness.task import Task
from tasks.zoo.model_file import METADATA_KEY, load_checkpoint, parse_header

MAY_CHANGE = (
    "trainer.max_steps", "trainer.max_epochs", "trainer.max_time",  # how long
    "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy",  # on what
    "trainer.enable_progress_bar",
    "loader.num_workers", "loader.workers",
    "data.root", "data.file", "data.folder",  # where the data is now
    "checkpointing.every_minutes", "checkpointing.every_steps",
)  # fmt: skip
"""Settings that a run may be given when it resumes: none changes what is learnt from the next batch on, as long as
as many devices share it."""


def check_changes(resume: str, changes: Iterable[str]) -> None:
    """Raises ValueError for a setting that a run which resumes cannot take up.

    Everything else is in the run already: in the optimiser's state, in the place in the epoch, in the weights. It
    would be written down and have no effect.
    """
    for key in changes:
        if key not in MAY_CHANGE:
            raise ValueError(
                f"{key} cannot be changed in a run that resumes; what can be is {', '.join(MAY_CHANGE)}. Leave it out, "
                f"or start a run of its own with init_from={resume}"
            )


def check_checkpoint(path: Path, task: Task) -> None:
    """Raises ValueError unless all that `path` holds fits the run of `task`, whose optimiser is a partial.

    Lightning restores a checkpoint piece by piece, in a run whose files have been opened. Here each piece is tried
    on something that is thrown away.
    """
    contents = load_checkpoint(path)
    try:
        _check_header(contents, task, path)
        _check_weights(contents, task, path)
        _check_optimizer(contents, task)
        _check_progress(contents)
        _check_callbacks(contents)
        _check_random(contents)
    except ValueError as error:
        raise ValueError(f"cannot resume from {path}: {error}") from None
    except Exception as error:  # of a file that was damaged or made by hand
        raise ValueError(
            f"cannot resume from {path}: it does not hold what a run of this project saves ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from None


def _check_header(contents: Mapping[str, Any], task: Task, path: Path) -> None:
    if METADATA_KEY not in contents:
        raise ValueError("it is not a checkpoint of this project")
    check_plain(contents[METADATA_KEY], "its header")
    header = parse_header(contents[METADATA_KEY], path)
    for name, theirs, ours in (
        ("task", header.task, task.header.task),
        ("model", header.model["name"], task.header.model["name"]),
        ("classes", header.class_names, task.header.class_names),
    ):
        if theirs != ours:
            raise ValueError(
                f"its {name}, {theirs!s:.200}, differ from those of the run as it is configured now, {ours!s:.200}; "
                "the data or config.yaml has been changed since"
            )


def _check_weights(contents: Mapping[str, Any], task: Task, path: Path) -> None:
    expected = {key: value.shape for key, value in task.state_dict().items()}
    for part in ("state_dict", "current_model_state"):
        if part == "state_dict" or part in contents:
            tensors = check_tensors(contents[part], path)
            check_finite(tensors, path)
            found = {key: value.shape for key, value in tensors.items()}
            different = {key for key, _ in found.items() ^ expected.items()}
            if different:
                raise ValueError(
                    f"its weights are not those of the model in config.yaml; {len(different)} tensors differ, the "
                    f"first: {min(different)}"
                )


def _check_optimizer(contents: Mapping[str, Any], task: Task) -> None:
    assert task.optimizer is not None and task.schedule is not None
    optimizer: Any = build_optimizer(task.model, task.optimizer, **task.lr_scales)
    schedule = task.schedule(optimizer, 10)
    fresh, state = optimizer.state_dict(), contents["optimizer_states"][0]
    _compare(state["param_groups"], fresh["param_groups"], "its optimizer's groups")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    kinds = _state_of(task)
    for index, values in state["state"].items():
        for name, value in values.items():
            shape = parameters[index].shape if isinstance(value, Tensor) and value.ndim else torch.Size([])
            if name not in kinds or (isinstance(value, Tensor) and value.shape != shape):
                raise ValueError(f"the optimizer's {name} of parameter {index} is not of this run")
            if isinstance(value, Tensor) and not value.isfinite().all():
                raise ValueError(f"the optimizer's {name} of parameter {index} is not finite")
        if kinds - values.keys():
            raise ValueError(f"the optimizer has no {min(kinds - values.keys())} of parameter {index}")
    optimizer.load_state_dict(state)
    _compare(contents["lr_schedulers"][0], schedule.state_dict(), "its schedule")
    schedule.load_state_dict(contents["lr_schedulers"][0])


def _state_of(task: Task) -> set[str]:
    """The names of what the optimiser keeps of each parameter."""
    assert task.optimizer is not None
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer: Any = task.optimizer([{"params": [parameter]}])
    optimizer.step()
    return set(optimizer.state[parameter])


def _check_progress(contents: Mapping[str, Any]) -> None:
    for name in ("epoch", "global_step"):
        if type(contents[name]) is not int or not 0 <= contents[name] < 2**40:
            raise ValueError(f"its {name} is {contents[name]!r:.40}")
    if not str(contents["pytorch-lightning_version"]).startswith("2."):
        raise ValueError("it was not written by Lightning 2")
    check_plain(contents["loops"], "its progress")
    trainer = pl.Trainer(
        logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu", devices=1
    )
    loop: Any = trainer.fit_loop
    fresh, state = loop.state_dict(), dict(contents["loops"]["fit_loop"])
    places = state.pop("state_dict")
    fresh.pop("state_dict")
    batches = dict(state["epoch_loop.state_dict"]).pop("_batches_that_stepped", 0)
    if type(batches) is not int or not isinstance(places, dict):
        raise ValueError("its progress is not of counts")
    fresh["epoch_loop.state_dict"] = state["epoch_loop.state_dict"]
    _compare(state, fresh, "its progress")
    due = contents[EXACT_RESUME].get("validation_due")
    if due is not None and (type(due) is not int or not 0 <= due < 2**40):
        raise ValueError("its epoch of a validation is not a count")
    loaders = cast(Mapping[str, Any], places).get("combined_loader", ())
    for place in (contents[EXACT_RESUME]["place"], *loaders):
        if place is not None and (set(place) != {"batches"} or type(place["batches"]) is not int):
            raise ValueError("its place in the epoch is not a count of batches")


def _check_callbacks(contents: Mapping[str, Any]) -> None:
    for key, state in contents["callbacks"].items():
        if key.startswith("EarlyStopping"):
            wanted = {
                "wait_count": 0, "stopped_epoch": 0, "patience": 0, "best_score": torch.zeros(()), "stopping_reason": 0,
                "stopping_reason_message": None,
            }  # fmt: skip
            _compare(state, wanted, "its early stopping")
        elif key.startswith("BestCheckpoint"):
            BestCheckpoint.check_state(state)


def _check_random(contents: Mapping[str, Any]) -> None:
    before = random_state()
    try:
        for state in contents[EXACT_RESUME]["random"]:
            set_random_state({**state, "cuda": None})
    finally:
        set_random_state(before)


def _compare(found: Any, fresh: Any, what: str) -> None:
    """ValueError unless `found` has the keys, lengths and kinds of values of `fresh`; None stands for any plain one."""
    if isinstance(fresh, Mapping):
        if not isinstance(found, Mapping) or found.keys() != fresh.keys():
            raise ValueError(f"{what} have other entries than a run of this project saves")
        for key, value in cast(Mapping[str, Any], fresh).items():
            _compare(found[key], value, what)
    elif isinstance(fresh, list | tuple):
        wanted = cast(Sequence[Any], fresh)
        if not isinstance(found, list | tuple) or len(cast(Sequence[Any], found)) != len(wanted):
            raise ValueError(f"{what} have {found!s:.60} where {len(wanted)} values belong")
        for one, other in zip(cast(Sequence[Any], found), wanted, strict=True):
            _compare(one, other, what)
    elif isinstance(fresh, Tensor):
        if not isinstance(found, Tensor) or found.shape != fresh.shape:
            raise ValueError(f"{what} have something else in the place of a tensor")
    elif isinstance(fresh, bool | str):
        if type(found) is not type(fresh):
            raise ValueError(f"{what} have {found!r:.60} where {fresh!r} would be of the right kind")
    elif isinstance(fresh, int):
        if type(found) is not int or abs(found) > 2**40:
            raise ValueError(f"{what} have {found!r:.60} where a count belongs")
    elif isinstance(fresh, float):
        if not isinstance(found, int | float) or isinstance(found, bool) or not abs(found) < 1e30:
            raise ValueError(f"{what} have {found!r:.60} where a number belongs")
    elif found is not None and not isinstance(found, str | int | float | bool):
        raise ValueError(f"{what} have a {type(found).__name__} where a plain value belongs")
