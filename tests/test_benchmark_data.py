"""The benchmarks of the data pipeline run, and say what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def benchmark(*words: str) -> tuple[int, dict]:
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), *words]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert "Traceback" not in result.stderr, result.stderr
    return result.returncode, json.loads(result.stdout)


@pytest.mark.slow
def test_loader() -> None:
    words = ("loader", "--images", "8", "--batch", "2", "--repeats", "1", "--min-ratio")
    status, told = benchmark(*words, "0.01")
    assert status == 0
    assert told["check"] == "the same pictures"
    assert set(told["ratio"]) == {"process / torchvision", "thread / torchvision"}
    assert all(rate > 0 for rate in told["images_a_second"].values())
    assert benchmark(*words, "1000")[0] == 1


@pytest.mark.slow
def test_annotations() -> None:
    words = ("annotations", "--images", "12000", "--objects", "60000", "--alone", "--max-gb")
    status, told = benchmark(*words, "2")
    assert status == 0
    assert len(told["GB"]["parsed"]["after_epochs"]) == len(told["GB"]["cached"]["after_epochs"]) == 2
    assert told["GB"]["cached"]["seconds_to_read"] < told["GB"]["parsed"]["seconds_to_read"] / 2
    assert benchmark(*words, "0.001")[0] == 1
