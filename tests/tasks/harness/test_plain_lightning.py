"""`Task` and `DataModule` under a plain `lightning.Trainer`, as in a script of somebody else's."""

import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import FSDPStrategy
from torch.utils.data import DataLoader

import tasks.data
from tasks.contracts import Model
from tasks.data.datamodule import DataModule
from tasks.detection.result import Objects
from tasks.detection.task import DetectionTask
from tasks.harness.start import build
from tasks.preprocessing import Preprocessing
from tests.tiny_runs import quiet_lightning

ROOT = Path(__file__).parents[3]
SPEC = {
    "name": "retinanet",
    "head_layers": 1,
    "score_threshold": 0.0,
    "backbone": {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [16, 32, 64, 128]},
    "pyramid": {"channels": 16},
}


def parts() -> tuple[Model, DataModule]:
    source = tasks.data.open("digits", num_train=8, num_val=3, num_test=2, size=96)
    data = DataModule(source, Preprocessing(short_side=None), batch_size=4)
    return build("detection", SPEC, data, source, 0), data


def trainer(folder: Path, *callbacks: pl.Callback, **options) -> pl.Trainer:
    quiet_lightning()
    return pl.Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, logger=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), log_every_n_steps=1,
        **{"max_steps": 2, "enable_checkpointing": bool(callbacks), **options},
    )  # fmt: skip


def test_fit_validate_test_and_predict(tmp_path: Path) -> None:
    model, data = parts()
    model.eval()  # as one of a model file is
    task = DetectionTask(model)
    best = ModelCheckpoint(
        tmp_path, monitor="train/loss", every_n_train_steps=1, save_on_train_epoch_end=False
    )
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    runner = trainer(tmp_path, best)  # with Lightning's two batches of validation beforehand
    runner.fit(task, datamodule=data)
    assert model.training
    assert any(not torch.equal(weights[key], value) for key, value in model.state_dict().items())
    metrics = runner.callback_metrics
    losses = [float(metrics[f"train/{name}"]) for name in task.guard.latest[0]]
    assert len(losses) == 2 and float(metrics["train/loss"]) == pytest.approx(sum(losses))
    assert Path(best.best_model_path).is_file()
    assert float(best.best_model_score) <= float(metrics["train/loss"])

    (validated,) = runner.validate(task, datamodule=data, verbose=False)
    assert validated["val/AP"] == pytest.approx(task.numbers["AP"]) and validated["val/loss"] > 0
    (tested,) = runner.test(task, datamodule=data, verbose=False)
    assert tested["test/AP"] == pytest.approx(task.numbers["AP"]) and "test/loss" not in tested
    batches = runner.predict(task, datamodule=data)
    assert batches is not None
    found = [result for batch in batches for result in batch]
    assert len(found) == 3 and all(isinstance(result, Objects) for result in found)
    boxes = torch.from_numpy(found[0].boxes)
    assert len(boxes) and (boxes >= 0).all() and (boxes <= 96).all()


def test_fit_with_loaders_alone(tmp_path: Path) -> None:
    model, data = parts()
    task = DetectionTask(model, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01))
    runner = trainer(tmp_path, num_sanity_val_steps=0)
    runner.fit(task, data.train_dataloader(), data.val_dataloader())
    assert runner.global_step == 2
    numbers = dict(task.numbers)
    assert numbers and runner.validate(task, datamodule=data, verbose=False)[0]["val/AP"] == pytest.approx(
        numbers["AP"]
    )


def test_a_loader_without_a_split_says_so(tmp_path: Path) -> None:
    model, data = parts()
    batches = DataLoader([next(iter(data.val_dataloader()))], batch_size=None)  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match="whole split, which a DataLoader of list does not have; give one loader"
    ):
        trainer(tmp_path).validate(DetectionTask(model), batches)


RANKS = """
import sys
import torch
import tasks.data
from tasks.detection.task import DetectionTask
from tests.tasks.harness.test_plain_lightning import parts, quiet_lightning
import lightning.pytorch as pl
quiet_lightning()
options = {} if sys.argv[1] == "as it comes" else {"use_distributed_sampler": False}
runner = pl.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", logger=False, enable_progress_bar=False, max_epochs=1,
    enable_model_summary=False, enable_checkpointing=False, num_sanity_val_steps=0, **options,
)
model, data = parts()
task = DetectionTask(model)
runner.fit(task, datamodule=data)
def say(line):  # in one piece: two processes write to the same pipe
    print(line + "\\n", end="", flush=True)
say(f"rank {runner.global_rank} steps {runner.global_step} AP {task.numbers['AP']}")
if options:
    try:
        runner.fit_loop.max_epochs = 2
        runner.fit(task, data.__class__(data.source, data.preprocessing, batch_size=4).train_dataloader())
    except ValueError as error:
        say(f"refused: {error}")
"""


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["as it comes", "ours"])
def test_two_ranks(sampler: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(RANKS)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, str(script), sampler], cwd=tmp_path, env=environment, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    said = [line.split() for line in result.stdout.splitlines() if line.startswith("rank")]
    assert {line[1] for line in said} == {"0", "1"}
    assert all(line[3] == "1" for line in said)  # 8 images, 2 ranks, batches of 4
    assert said[0][5] == said[1][5]  # every image once, over both
    if sampler == "ours":
        assert "refused: the loader was made for 1 process and 2 train together" in result.stdout


def test_a_network_in_pieces_is_refused(tmp_path: Path) -> None:
    model, _ = parts()
    task = DetectionTask(model)
    task.trainer = trainer(tmp_path)
    task.setup("fit")
    task.trainer._accelerator_connector.strategy = (
        FSDPStrategy()
    )  # which Lightning itself gives to GPUs alone
    with pytest.raises(ValueError, match=r"strategy=fsdp; a network that is cut into pieces .*: take ddp"):
        task.setup("fit")
