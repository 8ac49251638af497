"""A run that was interrupted, in any way and anywhere, resumes to the bits of one that was not: weights, averages,
optimiser, numbers of every validation, early stopping's count, and the model file."""

import contextlib
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.harness.checkpoints import AtomicCheckpointIO
from tasks.harness.metrics_csv import _Writer
from tasks.harness.task import Task
from tests.tiny_runs import checkpoint, rows, tiny_run

STEPS = 15  # three epochs of five
WORDS = [
    "early_stopping=50",
    "ema=0.9",
    "data.num_train=20",
    "data.num_val=20",
    "checkpointing.every_steps=1",
]
VALIDATIONS = {
    "by epoch": ["trainer.val_check_interval=null", "trainer.check_val_every_n_epoch=1"],
    "by steps": ["trainer.val_check_interval=3", "trainer.check_val_every_n_epoch=1"],
    "by steps over epochs": ["trainer.val_check_interval=4", "trainer.check_val_every_n_epoch=null"],
}


class CutOffError(Exception):
    """Ends a process, as far as a test can: nothing of the run is written after it."""


def at_step(number: int, act: Callable[[], None], method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `act` happen in the call of `Task.method` at the global step `number`, once."""
    inner, done = getattr(Task, method), []

    def step(self: Task, *arguments):
        if self.trainer.global_step == number and self.trainer.state.fn == "fit" and not done:
            done.append(number)
            act()
        return inner(self, *arguments)

    monkeypatch.setattr(Task, method, step)


def send(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


def cut_off() -> None:
    raise CutOffError


INTERRUPTIONS: dict[str, tuple[str, Callable[[], None]]] = {
    "Ctrl-C in a step": ("training_step", send(signal.SIGINT)),
    "SIGTERM in a step": ("training_step", send(signal.SIGTERM)),
    "SIGUSR1 in a step": ("training_step", send(signal.SIGUSR1)),
    "SIGTERM in a validation": ("validation_step", send(signal.SIGTERM)),
    "an error in a step": ("training_step", cut_off),
    "an error in a validation": ("validation_step", cut_off),
}
STOPPED_AT = (6, 9)  # in an epoch, and at its last step
VALIDATED_AT = {"by epoch": (5, 10), "by steps": (3, 8), "by steps over epochs": (4, 8)}


def keep_what_is_left(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Copies `run` in `folder` to `killed-<n>` beside it after its n-th file, which SIGKILL would have left."""
    replace, save, count = os.replace, _Writer.save, []

    def keep() -> None:
        count.append(len(count))
        shutil.copytree(folder / "run", folder / f"killed-{len(count)}")

    def replace_and_keep(partial: Path, path: Path) -> None:
        replace(partial, path)
        keep()

    def save_and_keep(self: _Writer) -> None:
        is_validation = any(name.startswith("val/") for row in self.metrics for name in row)
        save(self)
        if is_validation:
            keep()

    patch.setattr(os, "replace", replace_and_keep)
    patch.setattr(_Writer, "save", save_and_keep)


@pytest.fixture(scope="module", params=VALIDATIONS)
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """How often it validates, and a run that nothing interrupted, beside what a kill would have left of it."""
    folder = tmp_path_factory.mktemp("straight")
    with pytest.MonkeyPatch.context() as patch:
        keep_what_is_left(folder, patch)
        tiny_run("classification", folder / "run", *WORDS, *VALIDATIONS[request.param], steps=STEPS)
    return request.param, folder / "run"


def check_same(straight: Path, resumed: Path, steps: int = STEPS) -> None:
    one, two = checkpoint(straight), checkpoint(resumed)
    assert one["global_step"] == two["global_step"] == steps
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert one[part].keys() == two[part].keys()
        assert [key for key, value in one[part].items() if not torch.equal(value, two[part][key])] == []
    for contents in (one, two):  # how many batches all validations had, also those that were broken off
        contents["loops"]["fit_loop"].pop("epoch_loop.val_loop.batch_progress")
    for part in ("epoch", "optimizer_states", "lr_schedulers", "callbacks"):
        assert repr(one[part]) == repr(two[part]), part
    assert repr(one["loops"]["fit_loop"]) == repr(two["loops"]["fit_loop"])
    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert (straight / "metrics.json").read_text() == (resumed / "metrics.json").read_text()
    assert sorted(map(repr, rows(straight))) == sorted(map(repr, rows(resumed)))


QUICK = {("SIGTERM in a step", 0), ("an error in a validation", 1)}


@pytest.mark.parametrize(
    ("how", "which"),
    [
        pytest.param(how, which, marks=[] if (how, which) in QUICK else pytest.mark.slow)
        for how in INTERRUPTIONS
        for which in (0, 1)
    ],
)
def test_interrupted_and_resumed(
    straight: tuple[str, Path], how: str, which: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, expected = straight
    method, act = INTERRUPTIONS[how]
    step = VALIDATED_AT[kind][which] if method == "validation_step" else STOPPED_AT[which]
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        at_step(step, act, method, patch)
        with contextlib.suppress(CutOffError, SystemExit):
            tiny_run("classification", run, *WORDS, *VALIDATIONS[kind], steps=STEPS)
    assert checkpoint(run)["global_step"] < STEPS and not (run / "model.safetensors").exists()
    train(compose("train", [f"resume={run}"]))
    check_same(expected, run)


def cut_off_after(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a run end, as SIGKILL does, once it has written so many checkpoints."""
    write, count = AtomicCheckpointIO.save_checkpoint, []

    def write_and_end(self, contents, path, storage_options=None) -> None:
        write(self, contents, path, storage_options)
        count.append(path)
        if len(count) == number:
            raise CutOffError

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", write_and_end)


def killed(straight: Path) -> list[Path]:
    """What SIGKILL would have left of a run from its first `last.ckpt` on, in the order of what was written."""
    left = sorted(straight.parent.glob("killed-*"), key=lambda path: int(path.name.split("-")[1]))
    return [run for run in left if (run / "checkpoints" / "last.ckpt").exists()]


def check_resumed(straight: Path, run: Path, place: Path) -> None:
    """That what was left of `run` goes on to the same end, also where it is killed again in a validation that it has
    to make up for."""
    for again in (False, True):
        if again and checkpoint(run)["exact_resume"]["validation_due"] is None:
            return
        copy = place / f"{run.name}-{again}"
        shutil.copytree(run, copy)
        with contextlib.suppress(CutOffError), pytest.MonkeyPatch.context() as patch:
            if again:
                cut_off_after(1, patch)
            train(compose("train", [f"resume={copy}"]))
        if again:
            train(compose("train", [f"resume={copy}"]))
        check_same(straight, copy)


@pytest.mark.slow
def test_killed_after_any_file_and_resumed(straight: tuple[str, Path], tmp_path: Path) -> None:
    _, expected = straight
    left = killed(expected)
    assert len(left) > STEPS
    for run in left:
        check_resumed(expected, run, tmp_path)


def test_killed_around_the_last_validation_and_resumed(straight: tuple[str, Path], tmp_path: Path) -> None:
    """Nothing is left to train, but to validate, or to say which weights were the best."""
    kind, expected = straight
    left = [run for run in killed(expected) if checkpoint(run)["global_step"] == STEPS]
    assert len(left) > 5
    for run in left[:4] if kind == "by epoch" else left[-1:]:
        check_resumed(expected, run, tmp_path)


def test_killed_after_early_stopping_and_resumed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*WORDS, *VALIDATIONS["by epoch"], "early_stopping=1"]
    with pytest.MonkeyPatch.context() as patch:
        keep_what_is_left(tmp_path, patch)
        tiny_run("classification", tmp_path / "run", *words, steps=50)
    steps = checkpoint(tmp_path / "run")["global_step"]
    assert steps < 50
    left = [run for run in killed(tmp_path / "run") if checkpoint(run)["global_step"] == steps]
    for run in (left[0], left[-1]):
        capsys.readouterr()
        train(compose("train", [f"resume={run}"]))
        assert (
            f"nothing was left to train: early stopping ended the run at step {steps}"
            in capsys.readouterr().out
        )
        check_same(tmp_path / "run", run, steps)
