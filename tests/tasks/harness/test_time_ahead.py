"""How long training will take: what is said before it, where that is hours, and after its first steps."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.harness import time_ahead
from tasks.harness.callbacks import ProgressLines
from tasks.harness.time_ahead import TimeAhead, duration, seconds_of_an_image, shorter
from tests.tasks.zoo.small_weights import write_coco
from tests.tiny_runs import TINY, checkpoint


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "1 s"), (89, "89 s"), (240, "4 min"), (5000, "83 min"), (8280, "2.3 h"), (90000, "25.0 h")],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_first_step_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    watch, clock = TimeAhead(said.append), iter([30.0, 31.0, 33.5, 35.0])  # 30 s, then 1, 2.5 and 1.5
    monkeypatch.setattr(time_ahead.time, "perf_counter", lambda: next(clock))
    for step in (1, 2, 3, 4):
        trainer: Any = SimpleNamespace(global_step=step, estimated_stepping_batches=803)
        watch.on_train_batch_end(trainer, None, None, None, 0)  # pyright: ignore[reportArgumentType]
    assert said == ["800 steps ahead, about 23 min without validations"]  # 800 x 1.75 s


def test_a_run_without_an_end_foretells_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    watch, clock = TimeAhead(said.append), iter([0.0, 5.0, 10.0])
    monkeypatch.setattr(time_ahead.time, "perf_counter", lambda: next(clock))
    for step in (1, 2, 3):
        trainer: Any = SimpleNamespace(global_step=step, estimated_stepping_batches=float("inf"))
        watch.on_train_batch_end(trainer, None, None, None, 0)  # pyright: ignore[reportArgumentType]
    assert not said


def test_an_image_costs_its_share_of_both_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slower of two passes, the first, is warming up."""
    weight = torch.ones(1, requires_grad=True)

    class Batch:
        def __len__(self) -> int:
            return 2

    model: Any = SimpleNamespace(
        train=lambda: None,
        features=lambda batch: weight,
        losses=lambda features, batch: {"loss": features.sum()},
    )
    clock = iter([0.0, 9.0, 10.0, 14.0])
    monkeypatch.setattr(time_ahead.time, "perf_counter", lambda: next(clock))
    assert seconds_of_an_image(model, Batch(), torch.enable_grad) == 2.0  # pyright: ignore[reportArgumentType]
    assert weight.grad == 2


def test_hours_are_said_before_training_with_what_takes_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both networks are measured; here the clock says a hundred seconds an image of the first, one of the second."""
    root = write_coco(tmp_path / "coco", {"cat": 1})
    seconds = iter([100.0, 1.0])
    monkeypatch.setattr("tasks.harness.train.seconds_of_an_image", lambda *_: next(seconds))
    words = ["task=detection", "data=coco", f"data.root={root}", "pretrained=false", "backbone=resnet34",
             "trainer.accelerator=cpu", "trainer.max_steps=40", "loader.batch_size=2", "precision=32-true",
             "trainer.limit_train_batches=1", "trainer.max_epochs=1", "preprocessing.short_side=64",
             "preprocessing.max_size=96", "pyramid.channels=16", "model.box_representation_size=16"]  # fmt: skip
    train(compose("train", [*words, f"run_dir={tmp_path / 'run'}"]))
    said = capsys.readouterr().out
    line = (
        "40 steps will take about 2.2 h without a GPU; backbone=resnet18 pyramid.channels=128 "
        "preprocessing.short_side=384 preprocessing.max_size=640 about 80 s"
    )
    assert line in said and said.index(line) < said.index("epoch 0")


def test_what_is_shorter_keeps_the_model() -> None:
    spec = {"name": "fcos", "backbone": {"name": "resnet101", "norm": "group"}, "pyramid": {"name": "pafpn"}}
    found, images, words = shorter(spec)
    assert found == {
        "name": "fcos",
        "backbone": {"name": "resnet18"},
        "pyramid": {"name": "pafpn", "channels": 128},
    }
    assert images == {"short_side": 384, "max_size": 640} and words.startswith("backbone=resnet18 ")


ENDLESS = [
    "trainer.max_steps=-1", "trainer.max_epochs=-1", "trainer.max_time=00:00:00:01", "trainer.val_check_interval=null",
    "trainer.check_val_every_n_epoch=1",
]  # fmt: skip


def test_a_run_that_time_alone_ends_wants_a_schedule_that_needs_no_number_of_steps(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one of them, or schedule=constant"):
        train(compose("train", [*TINY["classification"], *ENDLESS, f"run_dir={tmp_path / 'run'}"]))
    assert not list(tmp_path.iterdir())
    words = [*TINY["classification"], *ENDLESS, "schedule=constant", f"run_dir={tmp_path / 'run'}"]
    train(compose("train", words))
    assert checkpoint(tmp_path / "run")["global_step"] > 0


def test_lines_of_a_run_without_an_end_say_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    lines, clock = ProgressLines(said.append), iter([0.0, 11.0, 22.0])
    monkeypatch.setattr(time_ahead.time, "perf_counter", lambda: next(clock))
    lines.on_train_start(SimpleNamespace(global_step=0), None)  # pyright: ignore[reportArgumentType]
    for step, total in ((10, float("inf")), (20, 30)):
        trainer: Any = SimpleNamespace(global_step=step, estimated_stepping_batches=total)
        lines.on_train_batch_end(trainer, None, None, None, 0)  # pyright: ignore[reportArgumentType]
    assert said == ["step 10  1.10 s a step", "step 20 of 30  1.10 s a step  11 s left"]
