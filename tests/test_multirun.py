"""Several runs by one command: each in its folder, one table, and what cannot be asked for."""

import csv
import json
from pathlib import Path

import pytest

from tasks.cli.sweep import split_words, sweep, table_rows
from tasks.cli.tables import Column, table
from tasks.cli.train import train
from tests.tiny_runs import TINY


def test_two_learning_rates_give_one_table(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*TINY["classification"], "trainer.max_steps=2", "model.dropout=0.1", "hydra.sweep.dir=sweep"]
    status = sweep("train", [*words, "optimizer.lr=0.01,-1"], ["train.py"], train).status
    assert status == 1  # a negative rate fails, and the other run is not lost
    captured = capsys.readouterr()
    assert "optimizer.lr=-1 must be a number of at least 0" in captured.err
    with open(tmp_path / "sweep" / "sweep.csv", newline="") as file:
        good, bad = csv.DictReader(file)
    assert list(good)[:3] == ["run", "optimizer.lr", "top1"]
    assert (good["run"], good["optimizer.lr"], good["status"]) == ("0", "0.01", "done")
    assert 0 <= float(good["top1"]) <= 1
    assert bad["optimizer.lr"] == "-1" and bad["top1"] == "-" and bad["status"].startswith("failed")
    assert (tmp_path / "sweep" / "0" / "model.safetensors").exists()
    around = json.loads((tmp_path / "sweep" / "0" / "environment.json").read_text())
    assert "optimizer.lr=0.01" in around["overrides"] and "run_dir=sweep/0" in around["overrides"]
    table = captured.out.split("\n\n")[-2].splitlines()
    assert table[0].split() == list(good) and table[1].split() == list(good.values())


def test_words_for_hydra() -> None:
    words = [
        "model.score_threshold=0.1,0.2", "backbone=resnet18,resnet34", "optimizer=sgd,adamw", "init_from=a,b=c",
    ]  # fmt: skip
    assert split_words("train", words) == (
        ["init_from=a,b=c"],  # a path, whatever is in it
        ["++model.score_threshold=0.1,0.2", "++backbone=resnet18,resnet34", "optimizer=sgd,adamw"],
    )
    searched = ["optimizer.lr=interval(0.0001,0.01)", "seed=range(1,4)"]
    assert split_words("train", searched) == ([], [f"++{word}" for word in searched])
    with pytest.raises(ValueError, match="optimizer=sdg is not in configs/optimizer/; did you mean sgd"):
        split_words("train", ["optimizer=adamw,sdg"])
    with pytest.raises(ValueError, match="unknown setting 'optimizer.lrr'; did you mean optimizer.lr"):
        split_words("train", ["optimizer.lrr=1,2"])
    with pytest.raises(ValueError, match="--multirun starts runs of its own: leave out resume and run_dir"):
        split_words("train", ["run_dir=x", "seed=1,2"])


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
    text = table([Column(title, right=True) for title in rows[0]], rows[1:])
    assert text.splitlines()[1] == "  0     1  0.2500  0.5000        done"
