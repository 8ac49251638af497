"""The benchmarks of the data pipeline run, and say what they promise."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def benchmark(*words: str) -> tuple[int, dict]:
    command = [sys.executable, str(ROOT / "tools/benchmark_data.py"), *words]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.stderr == ""
    return result.returncode, json.loads(result.stdout)


@pytest.mark.slow
def test_loader() -> None:
    status, told = benchmark(
        "loader", "--images", "8", "--batch", "2", "--rounds", "1", "--min-ratio", "0.01"
    )
    assert status == 0
    assert set(told["ratio"]) == {"process", "thread"}
    for name in ("torchvision", "process", "thread"):
        assert told[name]["median"] >= told[name]["min"] > 0
    assert (
        benchmark("loader", "--images", "4", "--batch", "2", "--rounds", "1", "--min-ratio", "1000")[0] == 1
    )


@pytest.mark.slow
def test_annotations() -> None:
    status, told = benchmark(
        "annotations", "--images", "12000", "--objects", "60000", "--max-gb", "2", "--alone"
    )
    assert status == 0
    assert len(told["parsed"]["after_epochs"]) == len(told["cached"]["after_epochs"]) == 2
    assert told["cached"]["seconds_to_read"] < told["parsed"]["seconds_to_read"] / 2
