"""A run that goes on from any checkpoint gives the bits of one that never stopped, whatever is switched on."""

import shutil
from pathlib import Path

import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.harness.checkpoints import AtomicCheckpointIO
from tests.tiny_runs import TASKS, TINY, checkpoint, rows, tiny_run

STEPS = 12
LEFT_AFTER = 7  # in the second of three epochs
FEW = ["data.num_train=16"]
WITH = {
    "nothing": [],
    "average": ["ema=0.9"],
    "workers": ["loader.num_workers=2"],
    "threads": ["loader.num_workers=2", "loader.workers=thread"],
    "workers_average": ["loader.num_workers=2", "ema=0.9"],
    "accumulation": ["trainer.accumulate_grad_batches=2"],
    "checkpointing": ["backbone.checkpoint_stages=[1,2]"],
    "sgd": ["optimizer=sgd", "schedule=warmup_steps"],
    "flips": ["augmentation=flip"],
    "validations": ["trainer.val_check_interval=3", "early_stopping=50", "checkpointing.keep_best=2"],
}
FAST = [(task, "average") for task in TINY] + [
    ("detection", "validations"),
    ("classification", "accumulation"),
]
OF_EACH_DETECTOR = ("nothing", "workers", "workers_average")
ALL = [
    (name, extra)
    for name in TINY
    for extra in (WITH if name in TASKS else OF_EACH_DETECTOR)
    if (name, extra) not in FAST
]
OF_ONE = [  # what only some tasks have
    ("classification", ["task.mixup=0.2", "task.cutmix=1.0"]),
    (
        "detection",
        ["loader.sampling=repeat_factor", "loader.repeat_threshold=0.5", "augmentation=strong", "ema=0.9"],
    ),
]


def run_and_keep(task: str, folder: Path, words: list[str], monkeypatch) -> tuple[Path, Path]:
    """A run straight through, and the folder that a kill after `LEFT_AFTER` would have left of it."""
    straight, left = folder / "straight", folder / "left"
    write = AtomicCheckpointIO.save_checkpoint

    def write_and_keep(self, contents, path, storage_options=None) -> None:
        write(self, contents, path, storage_options)
        if contents["global_step"] == LEFT_AFTER and Path(path).name == "last.ckpt":
            shutil.copytree(straight, left)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", write_and_keep)
    tiny_run(task, straight, *FEW, "checkpointing.every_steps=1", *words, steps=STEPS)
    return straight, left


def check_resume(task: str, words: list[str], tmp_path: Path, monkeypatch) -> None:
    straight, left = run_and_keep(task, tmp_path, words, monkeypatch)
    assert checkpoint(left)["global_step"] == LEFT_AFTER
    train(compose("train", [f"resume={left}"]))
    a, b = checkpoint(straight), checkpoint(left)
    assert a["global_step"] == b["global_step"] == STEPS
    for part in ("state_dict", "current_model_state", "averaging_state"):
        assert a.get(part, {}).keys() == b.get(part, {}).keys()
        for key, value in a.get(part, {}).items():
            assert torch.equal(value, b[part][key]), (part, key)
    assert repr(a["optimizer_states"]) == repr(b["optimizer_states"])
    assert repr(a["lr_schedulers"]) == repr(b["lr_schedulers"])
    done = {repr(row) for row in rows(left)}
    assert {repr(row) for row in rows(straight) if row["step"] >= LEFT_AFTER} <= done
    assert (straight / "metrics.json").read_text() == (left / "metrics.json").read_text()
    assert (straight / "model.safetensors").read_bytes() == (left / "model.safetensors").read_bytes()


@pytest.mark.parametrize(("task", "extra"), FAST)
def test_resumed_equals_straight_on(task: str, extra: str, tmp_path: Path, monkeypatch) -> None:
    check_resume(task, WITH[extra], tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("task", "extra"), ALL)
def test_resumed_equals_straight_on_with_all(task: str, extra: str, tmp_path: Path, monkeypatch) -> None:
    check_resume(task, WITH[extra], tmp_path, monkeypatch)


@pytest.mark.parametrize(("task", "words"), OF_ONE)
def test_resumed_equals_straight_on_with_what_one_task_has(task, words, tmp_path: Path, monkeypatch) -> None:
    check_resume(task, words, tmp_path, monkeypatch)
