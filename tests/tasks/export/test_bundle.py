"""The program that goes with an exported file stands alone."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.export.bundle import bundle
from tasks.export.runtime import changes
from tasks.export.write import runtime_source
from tasks.metrics.run_lengths import _changes


def test_it_needs_neither_the_project_nor_torch(tmp_path: Path) -> None:
    """What draws and writes is called, with a result of every task; only numpy and Pillow are there."""
    (tmp_path / "predict.py").write_text(runtime_source())
    code = """
import sys
class Refuse:
    def find_spec(self, name, *rest):
        if name.split(".")[0] in ("torch", "tasks", "backbones", "cv2", "torchvision", "onnxruntime", "openvino"):
            raise ModuleNotFoundError(name, name=name.split(".")[0])
sys.meta_path.insert(0, Refuse())
import predict, numpy as np, json
image = np.zeros((60, 80, 3), np.uint8)
box = np.array([[10, 10, 40, 50.]], np.float32)
found = {"boxes": box, "scores": np.array([0.9], np.float32), "labels": np.array([1])}
mask = {**found, "masks": np.ones((1, 28, 28), np.float32)}
logits = np.zeros((2, 15, 20), np.float32); logits[1, :, 10:] = 1
results = [
    predict.objects(found, ["a", "b"], (60, 80)), predict.objects(mask, ["a", "b"], (60, 80)),
    predict.class_scores(np.array([0., 2.]), ["a", "b"]),
    predict.ClassMap(predict.class_map(logits, (64, 96), (60, 80), (60, 80)), ["a", "b"]),
]
for result in results:
    assert result.draw(image).any(), result
    print(json.dumps(result.to_dict()), result.summary())
try:
    predict.Predictor(__file__ if "__file__" in globals() else "predict.py")
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    *lines, last = done.stdout.splitlines()
    assert len(lines) == 4 and "counts" in lines[1] and "b (88.1%)" in lines[2]
    assert last.startswith("onnxruntime is not installed; pip install onnxruntime")


@pytest.mark.parametrize("shape", [(0, 0), (1, 1), (5, 3), (40, 31)])
def test_changes_without_opencv(shape: tuple[int, int]) -> None:
    bitmap = (np.random.default_rng(0).random(shape) > 0.5).astype(np.uint8)
    np.testing.assert_array_equal(changes(bitmap), _changes(bitmap))


def test_two_definitions_of_one_name_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ("from tasks.files import write_json", "def write_text(): ...", "use = write_json")
    (tmp_path / "tasks_one.py").write_text("\n\n\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    text = (tmp_path / "tasks_one.py").read_text()
    with pytest.raises(AssertionError, match="write_text"):
        bundle("tasks_one")
    (tmp_path / "tasks_two.py").write_text(text.replace("write_text", "other"))
    namespace: dict = {"__name__": "two"}
    exec(bundle("tasks_two"), namespace)
    namespace["use"](tmp_path / "a.json", [1])
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]\n"
