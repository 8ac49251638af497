"""Two ranks that Lightning, torchrun or SLURM started: one folder, exact resume, and a signal to one ends both."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tasks.harness.exact_resume import EXACT_RESUME
from tests.tiny_runs import TINY, checkpoint

ROOT = Path(__file__).parents[1]
WORDS = [
    *TINY["classification"], "loader.batch_size=2", "trainer=ddp", "trainer.devices=2", "+trainer.accelerator=cpu",
    "trainer.val_check_interval=10", "trainer.check_val_every_n_epoch=null", "trainer.max_steps=40", "run_dir=run",
]  # fmt: skip
WORDS = [word for word in WORDS if word != "trainer.accelerator=cpu"]
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from tasks.cli.main import run_tool
from tasks.harness.task import Task

stopped, where, at = os.environ["STOPPED"].split(":")  # the rank that gets a SIGTERM, in which step

def ask(self):
    rank = self.global_rank
    if str(rank) == stopped:
        os.kill(os.getpid(), signal.SIGTERM)

def training_step(self, batch, index):
    if where == "train" and self.global_step == int(at):
        ask(self)
    return train(self, batch, index)

def validation_step(self, batch, index):
    open(f"validated-{{self.global_rank}}", "a").write("x")
    if where == "validate" and index == int(at):
        ask(self)
    return validate(self, batch, index)

train, Task.training_step = Task.training_step, training_step
validate, Task.validation_step = Task.validation_step, validation_step
_TrainingEpochLoop._broadcast_sigterm_tensor = lambda self: open("broadcast", "a").write("x")
run_tool("train")
"""
NOBODY = "none:train:0"


def environment(**more: str) -> dict[str, str]:
    others = ("VERTEBRA_RUN_DIR", "LOCAL_RANK", "RANK", "WORLD_SIZE")
    mine = {name: value for name, value in os.environ.items() if name not in others}
    return {**mine, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def script(place: Path) -> str:
    path = place / "train.py"
    path.write_text(SCRIPT.format(root=str(ROOT)))
    return str(path)


def run(command: list[str], place: Path, who: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, *command],
        cwd=place,
        env=environment(STOPPED=who),
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, done.stdout + done.stderr


def torchrun(place: Path, who: str, *words: str) -> tuple[int, str]:
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return run([*command, script(place), *words], place, who)


@pytest.mark.slow
def test_a_signal_to_the_second_rank_ends_both(tmp_path: Path) -> None:
    """Without Lightning's broadcast before each batch, which waits for the device."""
    status, output = run([script(tmp_path), *WORDS], tmp_path, "1:train:12")
    assert status == 128 + signal.SIGTERM, output
    assert output.count("stopped by SIGTERM after step 20") == 1 and "Traceback" not in output
    assert checkpoint(tmp_path / "run")["global_step"] == 20  # where ranks agree
    assert not (tmp_path / "broadcast").exists()


@pytest.mark.slow
def test_a_signal_in_a_validation_of_two_ranks_ends_it(tmp_path: Path) -> None:
    """To the second rank after one of its ten batches; the first validates its own eleven, and then stops too."""
    words = [*WORDS, "data.num_val=21", "loader.batch_size=1"]
    status, output = run([script(tmp_path), *words], tmp_path, "1:validate:0")
    assert status == 128 + signal.SIGTERM, output
    assert output.count("stopped by SIGTERM after step 10") == 1 and "Traceback" not in output
    assert [len((tmp_path / f"validated-{rank}").read_text()) for rank in (0, 1)] == [11, 1]
    last = checkpoint(tmp_path / "run")
    assert last["global_step"] == 10 and last[EXACT_RESUME]["validation_due"] == 0


@pytest.mark.slow
def test_torchrun_stops_and_resumes_exactly(tmp_path: Path) -> None:
    (tmp_path / "straight").mkdir()
    status, output = torchrun(tmp_path / "straight", NOBODY, *WORDS)
    assert status == 0, output
    status, output = torchrun(tmp_path, "1:train:15", *WORDS)
    assert status != 0 and "stopped by SIGTERM after step 20" in output
    assert {p.name for p in tmp_path.iterdir() if p.is_dir()} == {"straight", "run"}
    assert checkpoint(tmp_path / "run")["global_step"] == 20
    status, output = torchrun(tmp_path, NOBODY, "resume=run")
    assert status == 0, output
    straight, resumed = (checkpoint(folder / "run") for folder in (tmp_path / "straight", tmp_path))
    assert straight["global_step"] == resumed["global_step"] == 40
    assert all(
        torch.equal(value, resumed["state_dict"][name]) for name, value in straight["state_dict"].items()
    )
    numbers = [(folder / "run" / "metrics.json").read_text() for folder in (tmp_path / "straight", tmp_path)]
    assert numbers[0] == numbers[1]


@pytest.mark.slow
def test_slurm_starts_two_ranks_that_share_a_folder_and_stop_on_its_warning(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {
        "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "vertebra", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0", "SLURM_NODELIST": "127.0.0.1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip
    path = Path(script(tmp_path))
    path.write_text(path.read_text().replace("signal.SIGTERM)", "signal.SIGUSR1)"))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(path), *WORDS], cwd=tmp_path, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env=environment(**job, STOPPED="0:train:5", SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank)),
        )
        for rank in (0, 1)
    ]  # fmt: skip
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [128 + signal.SIGUSR1] * 2, outputs
    assert "stopped by SIGUSR1 after step 10" in outputs[0] and "stopped" not in outputs[1]
    assert checkpoint(tmp_path / "run")["global_step"] == 10
