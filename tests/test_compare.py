"""`vertebra compare` on small trained models."""

import json
import subprocess
from pathlib import Path

import pytest

import tasks
from tests.commands import command
from tests.tiny_runs import tiny_run

TOOL = Path(__file__).parents[1] / "tools" / "compare.py"


def compare(*words: object) -> subprocess.CompletedProcess[str]:
    return command("compare", *words)


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    place = tmp_path_factory.mktemp("runs")
    return [
        tiny_run("fcos", place / "small", steps=2),
        tiny_run("fcos", place / "large", "model.head_layers=3", steps=2),
    ]


def test_two_detectors(runs: list[Path], tmp_path: Path) -> None:
    done = compare(*runs, "--device", "cpu", f"json={tmp_path / 'costs.json'}")
    assert done.returncode == 0, done.stderr
    small, large = json.loads((tmp_path / "costs.json").read_text())
    model = tasks.load_model(runs[0] / "model.safetensors")
    assert small["parameters"] == sum(p.numel() for p in model.parameters())
    # Two more layers of 16 channels in each of two towers, with biases and group norms, ...
    assert large["parameters"] - small["parameters"] == 4 * (16 * 16 * 9 + 16 + 32)
    # ... at every cell of P3 to P5 of an image of 96 x 96.
    assert large["multiply_adds"] - small["multiply_adds"] == 4 * 16 * 16 * 9 * (144 + 36 + 9)
    assert small["metrics"] == json.loads((runs[0] / "metrics.json").read_text())
    assert small["training_bytes"] > small["predicting_bytes"] >= 0
    assert small["images_a_second"] > 0
    table = [line for line in done.stdout.splitlines() if line.startswith("fcos ")]
    assert len(table) == 2 and len(set(map(len, table))) == 1 and all(len(line) <= 80 for line in table)


def test_a_folder_of_no_run(tmp_path: Path) -> None:
    done = compare(tmp_path)
    assert done.returncode == 2
    assert (
        "has no config.yaml and no metrics.json and no model.safetensors; give folders of runs" in done.stderr
    )


@pytest.mark.parametrize("word", ["runs=10", "runs=-1e400", "runs={a:1}", "runs=[nothing]", "runs=nothing"])
def test_what_is_no_run_is_said(word: str, tmp_path: Path) -> None:
    done = command("compare", word, cwd=tmp_path)
    assert done.returncode == 2 and "error: " in done.stderr and "has no config.yaml" in done.stderr
