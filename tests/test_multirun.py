"""Several runs by one command: each in its folder, one table, and what cannot be asked for."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.cli.compose import hydra_words
from tasks.cli.sweep import aligned, table_rows
from tests.tiny_runs import TINY

ROOT = Path(__file__).parents[1]


def sweep(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "tools/train.py"), "--multirun", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_two_learning_rates_give_one_table(tmp_path: Path) -> None:
    words = [*TINY["classification"], "trainer.max_steps=2", "model.dropout=0.1", "hydra.sweep.dir=sweep"]
    result = sweep(*words, "optimizer.lr=0.01,-1", cwd=tmp_path)
    assert result.returncode == 1  # a negative rate fails, and the other run is not lost
    assert "Invalid learning rate" in result.stderr
    with open(tmp_path / "sweep" / "sweep.csv", newline="") as file:
        good, bad = csv.DictReader(file)
    assert list(good)[:3] == ["run", "optimizer.lr", "top1"]
    assert (good["run"], good["optimizer.lr"], good["status"]) == ("0", "0.01", "done")
    assert 0 <= float(good["top1"]) <= 1
    assert bad["optimizer.lr"] == "-1" and bad["top1"] == "-" and bad["status"].startswith("failed")
    assert (tmp_path / "sweep" / "0" / "model.safetensors").exists()
    table = result.stdout.split("\n\n")[-2].splitlines()
    assert table[0].split() == list(good) and table[1].split() == list(good.values())


def test_words_for_hydra() -> None:
    words = hydra_words(
        "train", ["model.score_threshold=0.1,0.2", "backbone=resnet18,resnet34", "optimizer=sgd,adamw"]
    )
    assert words == [
        "optimizer=sgd,adamw",
        "++model.score_threshold=0.1,0.2",
        "backbone.name=resnet18,resnet34",
    ]
    with pytest.raises(ValueError, match="optimizer=sdg is not in configs/optimizer/; did you mean sgd"):
        hydra_words("train", ["optimizer=adamw,sdg"])
    with pytest.raises(ValueError, match="unknown setting 'optimizer.lrr'; did you mean optimizer.lr"):
        hydra_words("train", ["optimizer.lrr=1,2"])
    with pytest.raises(ValueError, match="--multirun starts runs of its own: leave out resume and run_dir"):
        hydra_words("train", ["run_dir=x", "seed=1,2"])


def test_table() -> None:
    results = [
        {"run": "0", "seed": "1", "status": "done", "monitor": "AP", "metrics": {"AP": 0.25, "AP50": 0.5}},
        {"run": "1", "seed": "2", "status": "failed (1)", "monitor": "AP", "metrics": {}},
    ]
    rows = table_rows(results)
    assert rows == [
        ["run", "seed", "AP", "AP50", "status"],
        ["0", "1", "0.2500", "0.5000", "done"],
        ["1", "2", "-", "-", "failed (1)"],
    ]
    assert aligned(rows).splitlines()[1] == "  0     1  0.2500  0.5000        done"
