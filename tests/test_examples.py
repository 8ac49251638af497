"""The programs that a person reads first do what they say, in as few lines as they should."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import tasks
from tests.tiny_runs import quiet_lightning

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def lines_of_code(name: str) -> int:
    return len([line for line in (EXAMPLES / name).read_text().splitlines() if line.strip()])


@pytest.mark.parametrize(("name", "most"), [("train_in_python.py", 12), ("plain_loop.py", 60)])
def test_they_are_short_and_know_no_hydra(name: str, most: int) -> None:
    assert lines_of_code(name) <= most
    assert "hydra" not in (EXAMPLES / name).read_text().lower()


def test_training_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The file itself, on fewer images and steps."""
    train, open_data = tasks.train, tasks.data.open
    runs: list[Any] = []

    def few_steps(task: str, data: Any) -> Any:
        settings = tasks.recipe_settings(task, data)
        trainer = replace(
            settings.trainer,
            max_steps=2,
            val_check_interval="max_steps",
            accelerator="cpu",
            log_every_n_steps=1,
        )
        runs.append(train(task, data, settings=replace(settings, trainer=trainer, precision="32-true")))
        return runs[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "train", few_steps, raising=False)
    monkeypatch.setattr(
        tasks.data, "open", lambda name: open_data(name, num_train=8, num_val=2, num_test=2, size=96)
    )
    quiet_lightning()
    exec(compile((EXAMPLES / "train_in_python.py").read_text(), "train_in_python.py", "exec"), {})
    (run,) = runs
    printed = capsys.readouterr().out.splitlines()
    assert 0 <= float(printed[0]) <= 1 and len(printed) == 2
    assert run.folder.parent == Path("runs") and run.model_file.is_file()
    assert run.numbers["AP"] == tasks.load_model(run.model_file).header.metrics["AP"]
    assert run.model.header.model["backbone"]["blocks"] == [1, 1, 1, 1]  # of the recipe


@pytest.mark.slow
def test_plain_loop(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "plain_loop.py"), "2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["step", "step", "AP"]
