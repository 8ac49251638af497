"""Runs that are killed or asked to stop, and go on: nothing is lost and nothing differs."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.harness.checkpoints import AtomicCheckpointIO
from tests.tiny_runs import TINY

ROOT = Path(__file__).parents[1]
STEPS = 20
KILLED_AFTER = 8  # in the second epoch
SMALL = [  # of a network whose checkpoints, one after every step, take no time to write
    *TINY["detection"], "backbone.widths=[32,64,128,256]", "data.num_train=24", f"trainer.max_steps={STEPS}",
    "checkpointing.every_steps=1",
]  # fmt: skip


def start(words: list[str], cwd: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ROOT / "tools" / "train.py"), *words]
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(words: list[str], cwd: Path) -> str:
    process = start(words, cwd)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def steps_saved(folder: Path) -> int:
    path = folder / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.exists() else 0


def interrupt(words: list[str], cwd: Path, folder: Path, number: signal.Signals) -> tuple[int, str]:
    """Starts a run and sends it a signal after `KILLED_AFTER` steps or a few more; its status and output."""
    process = start(words, cwd)
    deadline = time.monotonic() + 240
    while steps_saved(folder) < KILLED_AFTER:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    return process.returncode, output


def rows(folder: Path) -> list[dict[str, float]]:
    with open(folder / "metrics.csv", newline="") as file:
        found = [
            {k: float(v) for k, v in row.items() if v and not k.startswith("perf/")}
            for row in csv.DictReader(file)
        ]
    return [row for row in found if set(row) != {"step"}]  # how fast it went is another matter


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("straight")
    finish([*SMALL, "run_dir=run"], place)
    return place / "run"


def assert_same_run(a: Path, b: Path) -> None:
    x, y = (torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (a, b))
    assert x["global_step"] == y["global_step"] == STEPS
    for key, value in x["state_dict"].items():
        assert torch.equal(value, y["state_dict"][key]), key
    assert repr(rows(a)) == repr(rows(b))  # repr: nan is not nan


@pytest.mark.parametrize(
    "workers",
    [
        "loader.num_workers=0",
        pytest.param("loader.num_workers=2", marks=pytest.mark.slow),
        pytest.param("loader.num_workers=2 loader.workers=thread", marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_equals_straight_on(straight: Path, tmp_path: Path, workers: str) -> None:
    words = [*SMALL, *workers.split(), "run_dir=run"]
    status, _ = interrupt(words, tmp_path, tmp_path / "run", signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert KILLED_AFTER <= steps_saved(tmp_path / "run") < STEPS
    output = finish(["resume=run"], tmp_path)
    assert "resuming from run/checkpoints/last.ckpt" in output
    assert_same_run(straight, tmp_path / "run")


def test_asked_to_stop_it_saves_and_says_how_to_go_on(straight: Path, tmp_path: Path) -> None:
    words = [*SMALL[:-1], f"checkpointing.every_steps={KILLED_AFTER}", "run_dir=run"]
    status, output = interrupt(words, tmp_path, tmp_path / "run", signal.SIGTERM)
    assert status == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step" in output
    assert "go on with resume=run" in output
    assert steps_saved(tmp_path / "run") > KILLED_AFTER
    finish(["resume=run/checkpoints/last.ckpt"], tmp_path)
    assert_same_run(straight, tmp_path / "run")


def test_resume_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="resume=.*nowhere does not exist; give the folder of a run"):
        compose("train", [f"resume={tmp_path / 'nowhere'}"])


def test_resume_keeps_the_settings_of_the_run(straight: Path) -> None:
    config = compose("train", [f"resume={straight}", "trainer.max_steps=40"])
    assert config.trainer.max_steps == 40
    assert config.data.num_train == 24
    with pytest.raises(ValueError, match="task=detection cannot be changed in a run that goes on"):
        compose("train", [f"resume={straight}", "task=detection"])
    with pytest.raises(ValueError, match="trainer.max_step.*max_steps"):
        compose("train", [f"resume={straight}", "trainer.max_step=40"])


def test_resume_without_a_checkpoint(straight: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((straight / "config.yaml").read_bytes())
    with pytest.raises(FileNotFoundError, match="there is no checkpoint at"):
        train(compose("train", [f"resume={tmp_path}"]))


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(tmp_path: Path) -> None:
    """Twenty kills, many of them while a checkpoint is written, as one is written after every step."""
    moments = random.Random(0)
    words = [
        *TINY["detection"],
        "trainer.max_steps=2000",
        "trainer.max_epochs=-1",
        "checkpointing.every_steps=1",
        "run_dir=run",
    ]
    folder, reached, kills = tmp_path / "run", 0, 0
    while kills < 20:
        process = start(words if not reached else ["resume=run"], tmp_path)
        deadline = time.monotonic() + 120
        while steps_saved(folder) <= reached:
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.01)
        time.sleep(
            moments.uniform(0, 0.3)
        )  # in the first steps, while one checkpoint after the other is written
        process.kill()
        process.communicate()
        kills += 1
        for path in (folder / "checkpoints").glob("*.ckpt"):
            torch.load(path, weights_only=True)  # whole
        assert steps_saved(folder) > reached
        reached = steps_saved(folder)
    finish(["resume=run", f"trainer.max_steps={reached + 2}"], tmp_path)
    assert steps_saved(folder) == reached + 2


def test_a_disk_that_is_really_full_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files, which the kernel upholds, lets no second checkpoint be written."""
    code = (
        "import resource, signal, sys, torch\n"
        "from tasks.harness.checkpoints import AtomicCheckpointIO\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "io = AtomicCheckpointIO()\n"
        "io.save_checkpoint({'step': 1, 'x': torch.zeros(10)}, sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "io.save_checkpoint({'step': 2, 'x': torch.zeros(1_000_000)}, sys.argv[1])\n"
    )
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    result = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 1
    assert (
        "OSError: cannot write the checkpoint" in result.stderr
        and "make room, then resume with" in result.stderr
    )
    assert torch.load(path, weights_only=True)["step"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    io = AtomicCheckpointIO()
    io.save_checkpoint({"step": 1}, path)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="cannot write the checkpoint .*No space left.*resume="):
        io.save_checkpoint({"step": 2}, path)
    assert torch.load(path, weights_only=True) == {"step": 1}
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
