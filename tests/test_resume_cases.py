"""Runs that resume: after early stopping, in the middle of a validation, and not with what they cannot take up."""

import contextlib
import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.folders import claim_folder, new_folder
from tasks.harness.checkpoints import AtomicCheckpointIO
from tasks.harness.exact_resume import EXACT_RESUME
from tasks.harness.loggers import wandb, wandb_id
from tests.tiny_runs import TINY, checkpoint, rows, tiny_run

ROOT = Path(__file__).parents[1]
BY_EPOCH = ["trainer.val_check_interval=null", "trainer.check_val_every_n_epoch=1"]


def contents(folder: Path) -> dict[str, str]:
    """A digest of every file in `folder`."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A run of a classifier that stopped at 12 of 20 steps, with early stopping."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    return tiny_run("classification", folder, "early_stopping=5", *BY_EPOCH, steps=12)


def test_counts_in_metrics_csv_stay_counts(finished: Path, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    train(compose("train", [f"resume={run}", "trainer.max_steps=13"]))
    with open(run / "metrics.csv", newline="") as file:
        epochs = [row["epoch"] for row in csv.DictReader(file) if row["epoch"]]
    assert epochs[0] == "0" and all(epoch.isdecimal() for epoch in epochs)


def copy_of(run: Path, folder: Path) -> Path:
    shutil.copytree(run, folder / "run")
    return folder / "run"


@pytest.mark.parametrize("validations", [BY_EPOCH, ["trainer.val_check_interval=3"]])
def test_a_run_with_early_stopping_resumes(validations: list[str], tmp_path: Path) -> None:
    straight = tiny_run("classification", tmp_path / "a", "early_stopping=50", *validations, steps=24)
    left = tiny_run(
        "classification", tmp_path / "b", "early_stopping=50", *validations, "schedule=constant", steps=11
    )
    train(compose("train", [f"resume={left}", "trainer.max_steps=24"]))
    assert checkpoint(left)["global_step"] == checkpoint(straight)["global_step"] == 24
    (early,) = [
        state for key, state in checkpoint(left)["callbacks"].items() if key.startswith("EarlyStopping")
    ]
    assert early["patience"] == 50


@pytest.mark.parametrize("moment", ["before the validation", "in the validation"])
@pytest.mark.parametrize(
    "words", [BY_EPOCH, ["trainer.val_check_interval=7"], ["trainer.val_check_interval=7", "ema=0.9"]]
)
def test_killed_at_a_validation_it_is_made_up_for(
    words: list[str], moment: str, tmp_path: Path, monkeypatch
) -> None:
    straight, left = tmp_path / "straight", tmp_path / "left"
    write = AtomicCheckpointIO.save_checkpoint
    if moment == "in the validation":  # the one that is saved when it starts
        monkeypatch.setattr("tasks.harness.checkpoints.FRESH", -1.0)
        words = [*words, "checkpointing.every_minutes=1000"]
    else:
        words = [*words, "checkpointing.every_steps=1"]

    def write_and_keep(self, saved, path, storage_options=None) -> None:
        write(self, saved, path, storage_options)
        if (
            saved[EXACT_RESUME]["validation_due"] is not None
            and saved["global_step"] > 12
            and not left.exists()
        ):
            shutil.copytree(straight, left)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", write_and_keep)
    tiny_run("classification", straight, *words, steps=30)
    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", write)
    stopped_at = checkpoint(left)["global_step"]
    train(compose("train", [f"resume={left}"]))
    of_validations = [
        [
            {k: v for k, v in row.items() if k.startswith("val/") or k in ("step", "epoch")}
            for row in rows(run)
            if "val/loss" in row and row["step"] >= stopped_at - 1
        ]
        for run in (straight, left)
    ]
    assert len(of_validations[0]) >= 2
    assert repr(of_validations[0]) == repr(of_validations[1])
    assert (straight / "model.safetensors").read_bytes() == (left / "model.safetensors").read_bytes()


REFUSED = [
    (
        "optimizer.lr=0.0001",
        "optimizer.lr cannot be changed in a run that resumes; what can be is trainer.max_steps",
    ),
    ("optimizer.weight_decay=0.5", "optimizer.weight_decay cannot be changed"),
    ("loader.batch_size=2", "loader.batch_size cannot be changed"),
    ("backbone.norm=frozen", "backbone.norm cannot be changed"),
    ("seed=3", "seed cannot be changed"),
    ("run_dir=elsewhere", "run_dir cannot be changed"),
    ("init_from=x.safetensors", "init_from cannot be changed"),
]


@pytest.mark.parametrize(("word", "message"), REFUSED)
def test_a_refused_change_leaves_every_byte(finished: Path, tmp_path: Path, word: str, message: str) -> None:
    run = copy_of(finished, tmp_path)
    before = contents(run)
    with pytest.raises(ValueError, match=message):
        train(compose("train", [f"resume={run}", word]))
    assert contents(run) == before


def test_settings_that_are_what_they_were_are_no_change(finished: Path) -> None:
    words = ["trainer.max_steps=13", "loader.num_workers=1"]
    lr = compose("train", [f"resume={finished}"]).optimizer.lr
    config = compose("train", [f"resume={finished}", f"optimizer.lr={lr}", *words])
    assert (config.trainer.max_steps, config.loader.num_workers) == (13, 1)


def set_in(nested: Any, keys: list[Any], value: Any) -> None:
    for key in keys[:-1]:
        nested = nested[next(k for k in nested if str(k).startswith(key)) if isinstance(key, str) else key]
    nested[keys[-1]] = value


HOSTILE = [
    (["callbacks", "Best", "kth_best_model_path"], "../../x", "names '../../x' as a checkpoint of the run"),
    (["callbacks", "Best", "kth_best_model_path"], "model.safetensors", "names 'model.safetensors' as a checkpoint"),
    (["callbacks", "Best", "best_model_path"], "/etc/passwd", "names '/etc/passwd'"),
    (["callbacks", "Best", "best_k_models"], {"..": torch.zeros(())}, r"names '\.\.'"),
    (["callbacks", "Best", "kth_value"], "x", "not numbers"),
    (["callbacks", "Early", "wait_count"], "x", "early stopping have 'x' where a count belongs"),
    (["global_step"], -1, "global_step is -1"),
    (["epoch"], "1", "epoch is '1'"),
    (["pytorch-lightning_version"], "0.1.0", "not written by Lightning 2"),
    (["loops", "fit_loop"], {}, "does not hold what a run"),
    (["loops", "fit_loop", "epoch_progress", "current", "ready"], "x", "progress have 'x' where a count belongs"),
    (["optimizer_states"], [], "does not hold what a run"),
    (["optimizer_states", 0, "param_groups"], [], "optimizer's groups"),
    (["optimizer_states", 0, "state", 0, "exp_avg"], torch.zeros(3), "exp_avg of parameter 0 is not of this run"),
    (["optimizer_states", 0, "state", 0], {}, "has no exp_avg of parameter 0"),
    (["optimizer_states", 0, "state", 0, "step"], torch.tensor(float("nan")), "step of parameter 0 is not finite"),
    (["state_dict", "model.head.bias"], torch.full((10,), float("inf")), "holds weights that are not finite"),
    (["lr_schedulers", 0, "base_lrs"], "x", "schedule have x where"),
    (["lr_schedulers", 0, "lr_lambdas", 0], -0.5, "does not hold what a run"),
    (["exact_resume", "random"], [{}], "does not hold what a run"),
    (["exact_resume", "place"], {"batches": "x"}, "place in the epoch"),
    (["exact_resume", "validation_due"], "x", "validation is not a count"),
    (["state_dict"], {}, "weights are not those of the model in config.yaml"),
    (["state_dict"], "x", "does not hold tensors by name"),
    (["vertebra", "class_names"], ["a"], "class_names and"),
    (["vertebra", "task"], "detection", "not a model of task=detection"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "value", "message"), HOSTILE, ids=lambda v: str(v)[:40])
def test_a_refused_checkpoint_leaves_every_byte(
    finished: Path, tmp_path: Path, keys: list[str], value: Any, message: str
) -> None:
    run = copy_of(finished, tmp_path)
    (tmp_path / "x").mkdir()  # what a name from the file would lead to
    (tmp_path / "x" / "kept").touch()
    path = run / "checkpoints" / "last.ckpt"
    saved = torch.load(path, weights_only=True)
    set_in(saved, keys, value)
    torch.save(saved, path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"cannot resume from .*{message}"):
        train(compose("train", [f"resume={run}", "trainer.max_steps=40"]))
    assert contents(tmp_path) == before


def test_only_checkpoints_of_the_run_are_ever_removed(tmp_path: Path) -> None:
    io = AtomicCheckpointIO()
    for name in ("best.ckpt", "best-12.ckpt", "last.ckpt", "model.safetensors", "photo.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "best-1.ckpt").mkdir()
    for path in [*tmp_path.iterdir()]:
        io.remove_checkpoint(path)
    assert {p.name for p in tmp_path.iterdir()} == {
        "last.ckpt",
        "model.safetensors",
        "photo.png",
        "folder",
        "best-1.ckpt",
    }


def test_a_configuration_of_another_network_is_refused(finished: Path, tmp_path: Path) -> None:
    run = copy_of(finished, tmp_path)
    config = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(config.replace("- 128\n", "- 64\n"))
    before = contents(run)
    with pytest.raises(
        ValueError, match="weights are not those of the model in config.yaml; .* tensors differ"
    ):
        train(compose("train", [f"resume={run}", "trainer.max_steps=40"]))
    assert contents(run) == before


def test_a_run_resumes_without_the_file_that_it_began_from(tmp_path: Path) -> None:
    first = tiny_run("classification", tmp_path / "first", "norm=group", steps=2)
    weights = tmp_path / "weights.ckpt"
    shutil.copy(first / "checkpoints" / "last.ckpt", weights)
    run = tiny_run(
        "classification", tmp_path / "run", "norm=group", f"backbone.pretrained={weights}", steps=2
    )
    weights.unlink()
    train(compose("train", [f"resume={run}", "trainer.max_steps=4"]))
    assert checkpoint(run)["global_step"] == 4


def test_runs_of_one_second_get_folders_of_their_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(time, "strftime", lambda form: "20260101-000000")
    made = [new_folder("detection") for _ in range(4)]
    assert [folder.name for folder in made] == [
        "detection-20260101-000000", *(f"detection-20260101-000000-{n}" for n in (2, 3, 4))
    ]  # fmt: skip
    with pytest.raises(FileExistsError, match="run_dir=runs is not empty"):
        claim_folder(Path("runs"), "run_dir")


def test_the_same_run_goes_on_at_wandb(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    first = wandb_id(tmp_path)
    assert wandb_id(tmp_path) == first
    (tmp_path / "wandb_id.txt").write_text("../../x\n")  # of a folder from elsewhere
    assert wandb_id(tmp_path) not in ("../../x", first)
    logger: Any = wandb(str(tmp_path))
    assert (logger._wandb_init["id"], logger._wandb_init["resume"]) == (wandb_id(tmp_path), "allow")
    with pytest.raises(ValueError, match="logger.wandb.project='p/q' cannot be the name of a project"):
        wandb(str(tmp_path), project="p/q")


def test_a_full_disk_before_the_first_checkpoint_does_not_advise_to_resume(
    tmp_path: Path, monkeypatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left.*start the run again: it has no checkpoint yet"):
        AtomicCheckpointIO().save_checkpoint({"step": 1}, tmp_path / "run" / "checkpoints" / "last.ckpt")


def start(words: list[str], cwd: Path) -> subprocess.Popen:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(ROOT / "tools" / "train.py"), *words],
        cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def wait_for(text: str, path: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 240
    while True:
        with contextlib.suppress(OSError):
            if text in path.read_text():
                return
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)


def test_ctrl_c_in_the_first_epoch_names_the_checkpoint_and_the_run_resumes(tmp_path: Path) -> None:
    words = [*TINY["classification"], "early_stopping=5", *BY_EPOCH, "trainer.max_steps=100000",
             "trainer.max_epochs=-1", "data.num_train=4000", "checkpointing.every_steps=1", "run_dir=run"]  # fmt: skip
    process = start(words, tmp_path)
    saved = tmp_path / "run" / "checkpoints" / "last.ckpt"
    deadline = time.monotonic() + 240
    while not saved.exists():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert (
        "go on with resume=run, or use the model as it is with checkpoint=run/checkpoints/last.ckpt" in output
    )
    step = checkpoint(tmp_path / "run")["global_step"]
    train(compose("train", [f"resume={tmp_path / 'run'}", f"trainer.max_steps={step + 2}"]))
    assert checkpoint(tmp_path / "run")["global_step"] == step + 2


@pytest.mark.slow
def test_a_warning_before_training_starts_does_not_end_the_run(tmp_path: Path) -> None:
    words = [*TINY["classification"], "trainer.max_steps=2", "run_dir=run"]
    code = (
        "import os, signal, sys\n"
        "from tasks.cli.compose import compose\n"
        "from tasks.cli.train import train\n"
        "from tasks.harness import start\n"
        "build = start.build\n"
        "def warned(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGUSR1)\n"
        "    return build(*arguments)\n"
        "start.build = warned\n"
        "train(compose('train', sys.argv[1:]))\n"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.slow
def test_sigterm_in_a_validation_ends_it_after_the_batch(tmp_path: Path) -> None:
    """The validation waits five seconds for each of its 25 images; its first line says that it has begun."""
    (tmp_path / "slow.py").write_text(
        "import sys, time\n"
        "from tasks.harness.task import Task\n"
        "from tasks.cli.compose import compose\n"
        "from tasks.cli.train import train\n"
        "step = Task.validation_step\n"
        "def slow(self, batch, index):\n"
        "    open('begun', 'a').write('x')\n"
        "    time.sleep(5 if index else 0)\n"
        "    return step(self, batch, index)\n"
        "Task.validation_step = slow\n"
        "sys.exit(train(compose('train', sys.argv[1:])).status)\n"
    )
    words = [*TINY["classification"], *BY_EPOCH, "data.num_val=100", "trainer.max_steps=30", "run_dir=run"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "slow.py", *words], cwd=tmp_path, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wait_for("xx", tmp_path / "begun", process)
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert time.monotonic() - asked < 40  # of the 120 s that the validation would take
    assert "stopped by SIGTERM" in output and "Traceback" not in output
    assert checkpoint(tmp_path / "run")[EXACT_RESUME]["validation_due"] == 0
