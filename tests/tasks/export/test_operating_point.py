"""What `vertebra tune` has stored goes with an exported model: its Python predictor and the program beside it."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tasks
from tasks.export.write import export
from tasks.metrics.calibration import Calibration
from tasks.metrics.operating_point import KEY, OperatingPoint
from tasks.zoo.model_file import save_model
from tests.tasks.export.small_exports import WARNINGS, model_with_header, pictures

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = [*WARNINGS, pytest.mark.slow]


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, OperatingPoint]:
    """A tuned model file, what was exported of it, and its operating point."""
    folder = tmp_path_factory.mktemp("tuned")
    model = model_with_header("fcos")
    save_model(folder / "plain.safetensors", model, model.header)
    found = tasks.load_predictor(folder / "plain.safetensors", device="cpu", precision="32-true")(
        pictures()[0]
    )
    thresholds = np.array([np.median(found.scores[found.labels == k]) for k in range(3)], np.float64)
    assert np.isfinite(thresholds).all()
    point = OperatingPoint(thresholds, Calibration(np.array([0.0, 1.0]), np.array([0.1, 0.4])))
    model.header.provenance[KEY] = point.to_dict()
    save_model(folder / "run.safetensors", model, model.header)
    return folder / "run.safetensors", export(folder / "run.safetensors", folder).file, point


def test_the_exported_predictor_shows_what_the_file_says(tuned: tuple[Path, Path, OperatingPoint]) -> None:
    file, exported, point = tuned
    image = pictures()[0]
    raw = tasks.load_predictor(exported, score_threshold=0.0)(image)
    own = tasks.load_predictor(exported)(image)
    shown = raw.scores >= point.thresholds[raw.labels]
    assert 0 < shown.sum() < len(raw)
    np.testing.assert_array_equal(own.boxes, raw.boxes[shown])
    np.testing.assert_allclose(own.scores, point.calibration(raw.scores[shown]), rtol=1e-6)
    ours = tasks.load_predictor(file, device="cpu", precision="32-true")(image)
    assert abs(len(ours) - len(own)) <= 1  # one may lie on a threshold
    np.testing.assert_allclose(np.sort(ours.scores)[-5:], np.sort(own.scores)[-5:], atol=1e-5)


def test_the_program_beside_it_does_so_too(tuned: tuple[Path, Path, OperatingPoint], tmp_path: Path) -> None:
    exported = tuned[1]
    picture = tmp_path / "picture.png"
    pictures()[0].save(picture)

    def scores(*options: str) -> list[float]:
        command = [sys.executable, exported.parent / "predict.py", exported.name, picture, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=exported.parent)
        return [item["score"] for item in json.loads(done.stdout)["objects"]]

    own = tasks.load_predictor(exported)(pictures()[0])
    np.testing.assert_allclose(scores(), own.scores, rtol=1e-6)
    assert max(scores("--score-threshold", "0")) > 0 and len(scores("--score-threshold", "0")) > len(own)
