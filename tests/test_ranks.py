"""Several ranks give what one gives: numbers to the last bit, equal weights, one folder, the same gradients."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.tiny_runs import TASKS, TINY, checkpoint, tiny_run

ROOT = Path(__file__).parents[1]


def tool(name: str, *words: object, cwd: Path) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    for name_of in ("VERTEBRA_RUN_DIR", "LOCAL_RANK", "RANK", "WORLD_SIZE"):
        environment.pop(name_of, None)
    command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, words)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_seven_images_over_one_two_and_three_ranks(task: str, tmp_path: Path) -> None:
    """Batches of one image, so that every rank computes what one rank would: the rest must then be exact."""
    tiny_run(task, tmp_path / "run", steps=4)
    data = ["data=single_digits"] if task == "classification" else ["data.size=96"]
    numbers = []
    for ranks in (1, 2, 3):
        tool(
            "evaluate", f"checkpoint={tmp_path / 'run' / 'model.safetensors'}", *data, "data.num_val=7",
            "loader.batch_size=1", "precision=32-true", "trainer.accelerator=cpu", f"+trainer.devices={ranks}",
            "+trainer.strategy=ddp" if ranks > 1 else "+trainer.strategy=auto", f"run_dir=out{ranks}", cwd=tmp_path,
        )  # fmt: skip
        numbers.append((tmp_path / f"out{ranks}" / "metrics.json").read_text())
    assert numbers[0] == numbers[1] == numbers[2]
    assert len(json.loads(numbers[0])) > 3


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory) -> Path:
    """A run of two ranks with averages, validated twice; every rank writes the weights that it ends with."""
    place = tmp_path_factory.mktemp("ranks")
    script = place / "train.py"
    script.write_text(
        "import os, sys, torch\n"
        f"sys.path.insert(0, {str(ROOT)!r})\n"
        "from tasks.harness.fit import Fit\n"
        "from tasks.cli.main import run_tool\n"
        "use_best = Fit._use_best\n"
        "def keep(fit):\n"
        "    use_best(fit)\n"
        "    torch.save([fit.task.state_dict(), fit.task.numbers], f'weights-{fit.trainer.global_rank}.pt')\n"
        "Fit._use_best = keep\n"
        "run_tool('train')\n"
    )
    words = [*TINY["detection"], "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.max_steps=6",
             "trainer.val_check_interval=3", "ema=0.5", "optimizer=sgd", "data.num_val=7"]  # fmt: skip
    words = [word for word in words if word != "trainer.accelerator=cpu"] + ["+trainer.accelerator=cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment.pop("VERTEBRA_RUN_DIR", None)
    result = subprocess.run(
        [sys.executable, str(script), *words],
        capture_output=True,
        text=True,
        cwd=place,
        env=environment,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    (place / "printed.txt").write_text(result.stdout)
    return place


def test_ranks_share_one_folder_and_one_speaks(two_ranks: Path) -> None:
    (run,) = (two_ranks / "runs").iterdir()
    names = {p.name for p in run.iterdir()}
    assert {
        "config.yaml",
        "environment.json",
        "metrics.csv",
        "model.safetensors",
        "checkpoints",
        "log.txt",
    } <= names
    printed = (two_ranks / "printed.txt").read_text()
    assert printed.count("images to train") == 1 and printed.count("took ") == 1
    assert "batch 4 x 2 devices x 1 accumulated: " in printed
    assert "on CPUs each rank keeps statistics of its own" in printed
    assert checkpoint(run)["global_step"] == 6


def test_ranks_end_with_equal_weights_and_numbers(two_ranks: Path) -> None:
    (a, numbers_a), (b, numbers_b) = (
        torch.load(two_ranks / f"weights-{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    parameters = [
        key for key in a if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))
    ]
    assert parameters and all(torch.equal(a[key], b[key]) for key in parameters)
    assert repr(numbers_a) == repr(numbers_b)


GRADIENTS = """
import os, sys, torch
sys.path.insert(0, {root!r})
import lightning.pytorch as pl
from tasks.cli.compose import compose
from tasks.harness.task import Task
from tasks.cli.train import train
def keep(self, optimizer):
    if self.global_rank == 0:
        gradients = {{n: p.grad.clone() for n, p in self.model.named_parameters()}}
        torch.save(gradients, f"gradients-{{self.trainer.world_size}}.pt")
Task.on_before_optimizer_step = keep
train(compose("train", sys.argv[1:]))
"""


GROUP_NORM = ["norm=group", "pyramid.norm=null"]
EVERY_SAMPLE = [  # none left to chance
    f"model.{part}_{what}" for part in ("rpn", "box") for what in ("samples=100000", "positive_fraction=1.0")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "settings"),
    [
        pytest.param("classification", ["norm=group"], id="classification"),
        pytest.param(
            "semantic_segmentation", [*GROUP_NORM, "model.loss=cross_entropy"], id="semantic_segmentation"
        ),
        pytest.param("detection", [*GROUP_NORM, *EVERY_SAMPLE], id="faster_rcnn"),
        pytest.param("cascade", [*GROUP_NORM, *EVERY_SAMPLE], id="cascade"),
        pytest.param("retinanet", [*GROUP_NORM, "model.head_norm=group"], id="retinanet"),
        pytest.param("fcos", [*GROUP_NORM, "model.head_norm=group"], id="fcos"),
        pytest.param("gfl", [*GROUP_NORM, "model.assignment=atss"], id="gfl"),
        pytest.param(
            "gfl",
            [*GROUP_NORM, "task.atss_first_fraction=0"],
            id="gfl_task_aligned",
        ),
        pytest.param("yolox", [*GROUP_NORM, "model.head_norm=group"], id="yolox"),
        pytest.param("instance_segmentation", [*GROUP_NORM, *EVERY_SAMPLE], id="mask_rcnn"),
    ],
)
def test_gradients_of_two_ranks_are_those_of_one(task: str, settings: list[str], tmp_path: Path) -> None:
    """The same eight images, with unlike numbers of objects: four on each of two ranks, or all on one."""
    script = tmp_path / "gradients.py"
    script.write_text(GRADIENTS.format(root=str(ROOT)))
    for ranks in (1, 2):
        words = [*TINY[task], *settings, "data.num_train=8", f"loader.batch_size={8 // ranks}",
                 "trainer.max_steps=1", f"trainer.devices={ranks}",
                 f"+trainer.strategy={'ddp' if ranks > 1 else 'auto'}", f"run_dir=run{ranks}"]  # fmt: skip
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        environment.pop("VERTEBRA_RUN_DIR", None)
        result = subprocess.run(
            [sys.executable, str(script), *words],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr
    one, two = (torch.load(tmp_path / f"gradients-{ranks}.pt", weights_only=True) for ranks in (1, 2))
    assert one.keys() == two.keys()
    for name, gradient in one.items():
        torch.testing.assert_close(two[name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))


def test_started_by_something_else_it_wants_a_folder(monkeypatch, tmp_path: Path) -> None:
    from tasks.cli.compose import compose
    from tasks.cli.train import train

    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="several processes were started .*give run_dir=DIR"):
        train(compose("train", TINY["classification"]))
