"""The commands of tools/benchmark.py on tiny images, and the counts that no busy machine disturbs, at full size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))
from benchmarks.counting import OperatorCalls, Synchronisations, saved_bytes  # noqa: E402


def benchmark(*words: str) -> tuple[int, list[dict]]:
    """The exit status and the lines of one command."""
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(command, capture_output=True, text=True, env=environment)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    assert lines, result.stderr
    return result.returncode, [json.loads(line) for line in lines]


def test_settings_are_words_and_an_unknown_one_stops_with_the_nearest() -> None:
    words = ("roi-align", "rois=4", "size=32x32", "precision=fp32", "repeats=1", "device=cpu")
    status, (line,) = benchmark(*words)
    assert status == 0 and (line["rois"], line["size"], line["precision"]) == (4, "32x32", "fp32")
    old = benchmark("roi-align", "--rois", "4", "--size", "32x32", "--precision", "fp32", "--repeats", "1")
    assert {key: old[1][0][key] for key in ("rois", "size", "precision")} == {
        key: line[key] for key in ("rois", "size", "precision")
    }
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), "roi-align", "roi=4"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "unknown setting 'roi'; did you mean rois" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("model", ["faster_rcnn_r50_fpn", "mask_rcnn_r50_fpn"])
def test_counts_of_a_training_step(model: str) -> None:
    """The bounds that docs/performance.md gives, with losses equal to torchvision's first."""
    _, (two, eight) = benchmark(
        "counts", "--model", model, "--batch", "2,8", "--size", "128x160", "--precision", "fp32"
    )
    assert two["ours"]["syncs"] == eight["ours"]["syncs"] <= 20 < eight["torchvision"]["syncs"]
    assert eight["ours"]["forward_calls"] <= 1500 < eight["torchvision"]["forward_calls"]
    assert "losses equal" in eight["check"]


@pytest.mark.slow
def test_bytes_saved_for_the_backward_pass() -> None:
    _, (counts,) = benchmark("counts", "--model", "mask_rcnn_r50_fpn")
    assert counts["ours"]["saved_bytes_an_image"] <= 0.6e9 < counts["torchvision"]["saved_bytes_an_image"]


@pytest.mark.parametrize(
    "words",
    [
        ("roi-align", "--rois", "16", "--size", "128x160", "--precision", "fp32,bf16"),
        ("masks", "--dets", "8", "--size", "60x80"),
        ("assign", "--gts", "1,5", "--size", "128x160"),
        pytest.param(
            ("relatives", "--model", "cascade_rcnn_r50_fpn", "--size", "64x64", "--precision", "fp32"),
            marks=pytest.mark.slow,
        ),
        ("eval", "--images", "12", "--dets", "7"),
        ("train-step", "--model", "resnet50", "--size", "64x64", "--batch", "2", "--precision", "fp32"),
    ],
)
def test_a_command_compares_and_times(words: tuple[str, ...], record_property) -> None:
    status, results = benchmark(*words, "--repeats", "1")
    assert status == 0
    for result in results:
        assert result["benchmark"] == words[0]
        assert result["check"]
        assert result["ratio"]
        for pair, ratio in result["ratio"].items():
            ours, theirs = (result["ms"][name]["median"] for name in pair.split(" / "))
            assert ratio == pytest.approx(theirs / ours, rel=0.05), pair
        record_property("ratio", f"{' '.join(words)}: {result['ratio']}")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "model"),
    [
        ("train-step", "mask_rcnn_r50_fpn"),
        ("train-step", "retinanet_r50_fpn"),
        ("train-step", "fcos_r50_fpn"),
        ("infer", "mask_rcnn_r50_fpn"),
        ("infer", "retinanet_r50_fpn"),
    ],
)
def test_detectors_are_equal_before_they_are_timed(command: str, model: str, record_property) -> None:
    status, (result,) = benchmark(
        command,
        "--model",
        model,
        "--size",
        "128x160",
        "--precision",
        "fp32,bf16",
        "--repeats",
        "1",
        "--min-ratio",
        "1e9",
    )
    assert "equal" in result["check"]
    assert len(result["ratio"]) == 3
    record_property("ratio", f"{command} {model}: {result['ratio']}")
    assert status == 1, "no ratio reaches a thousand million"


@pytest.mark.slow
def test_shares_of_a_step() -> None:
    _, (result,) = benchmark("shares", "--model", "resnet50", "--size", "64x64", "--precision", "fp32")
    for name in ("ours fp32", "torchvision fp32 NCHW"):
        found = result[name]
        assert found["seconds"] > 0
        assert 2 < found["products_percent"] < 100 - sum(found["others_percent"].values()) + 1
        assert any("batch_norm" in operator for operator in found["others_percent"])


@pytest.mark.slow
def test_from_files_to_weights(record_property) -> None:
    status, (result,) = benchmark(
        "end-to-end", "--images", "2", "--batch", "1", "--repeats", "1", "--precision", "fp32"
    )
    assert status == 0 and "losses equal" in result["check"]
    assert set(result["images_a_second"]) == {"torchvision fp32 NCHW", "ours fp32"}
    record_property("ratio", f"end-to-end: {result['ratio']}")


def test_a_folder_that_is_not_cocos(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/benchmark.py"), "end-to-end", "--root", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 1
    assert "has no annotations/instances_train2017.json; give COCO's folder" in result.stderr


def test_what_waits_for_a_gpu_is_counted() -> None:
    x, mask = torch.arange(4.0), torch.tensor([True, False, True, False])
    with Synchronisations() as waits, waits.operators:
        x[mask]  # one
        x.sum().item()  # two
        x.tolist()  # three
        torch.tensor([1.0], device="cpu")  # four
        x.nonzero()  # five
        x[mask] = 0.0  # a fill, which waits for nothing
        x + 1
        torch.tensor([1.0])
    assert sum(waits.places.values()) == 5
    assert all(place.startswith("tests/test_benchmark.py:") for place in waits.places)


def test_operators_and_saved_bytes_by_hand() -> None:
    layer = nn.Linear(3, 5)
    x = torch.ones(7, 3)
    with saved_bytes() as saved, OperatorCalls() as calls:
        layer(x).relu()
    assert calls.names["aten.relu.default"] == 1
    assert sum(saved.values()) == 4 * (7 * 3 + 7 * 5), "the input and what comes out, without parameters"
