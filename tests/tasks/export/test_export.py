"""Models of every kind as files: what they find, what is refused, and what a file says of itself."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tasks
from tasks.cli import main as command_line
from tasks.export import onnx_graph
from tasks.export.proof import check_pictures
from tasks.export.settings import ExportSettings
from tasks.export.write import check_drop, export
from tasks.inference.predictor import Predictor
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import save_model
from tests.device.small_models import MODELS
from tests.tasks.export.small_exports import NAMES, WARNINGS, model_with_header, pictures
from tests.tiny_runs import quiet_lightning

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
pytestmark = WARNINGS
KINDS = ("semantic_fpn", "deeplabv3", "retinanet", "fcos", "yolox", "faster_rcnn", "mask_rcnn", "gfl")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The exported file, with the model file beside it."""
    folder = tmp_path_factory.mktemp("classifier")
    model = model_with_header("classifier")
    save_model(folder / "run.safetensors", model, model.header)
    return export(folder / "run.safetensors", folder).file


def test_a_classifier_and_its_metadata(classifier: Path) -> None:
    assert classifier.name == "run.onnx" and (classifier.parent / "predict.py").is_file()
    stored = onnx.load(classifier)
    assert {item.version for item in stored.opset_import if item.domain == ""} == {20}
    said = json.loads(next(item.value for item in stored.metadata_props if item.key == "vertebra"))
    assert said["class_names"] == NAMES and said["category_ids"] == [1, 3, 7]
    assert (
        said["input"] == "pictures"
        and said["licence"] == "not stated"
        and said["model"]["name"] == "classifier"
    )
    exported = tasks.load_predictor(classifier)
    predictor = Predictor(model_with_header("classifier"), device="cpu", precision="32-true")
    assert check_pictures(predictor, exported, pictures()).logit < 1e-5
    assert not [path for path in classifier.parent.iterdir() if "partial" in path.name]


def test_the_copied_program_predicts_without_torch(classifier: Path, tmp_path: Path) -> None:
    """EXIF, grey, transparency and 16 bits, from files."""
    for number, image in enumerate(pictures()):
        image.save(tmp_path / f"{number}.png", exif=image.getexif())
    names = [f"{number}.png" for number in range(5)]
    code = (
        "import sys, predict; sys.argv = ['predict.py', *sys.argv[1:]]; status = predict.main();"
        "assert not {'torch', 'tasks', 'backbones', 'cv2'} & set(sys.modules); sys.exit(status)"
    )
    words = [str(classifier), *names, "--draw", "drawn"]
    environment = {"PYTHONPATH": str(classifier.parent), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    predictor = Predictor(model_with_header("classifier"), device="cpu", precision="32-true")
    for name, line in zip(names, done.stdout.splitlines(), strict=True):
        expected, found = predictor(tmp_path / name).to_dict()["classes"], json.loads(line)["classes"]
        assert [one["class"] for one in found] == [one["class"] for one in expected]
        shares = [[one["probability"] for one in classes] for classes in (found, expected)]
        np.testing.assert_allclose(*shares, atol=1e-5)
    assert len(list((tmp_path / "drawn").iterdir())) == 5
    broken = subprocess.run(
        [sys.executable, "-c", code, str(classifier), "predict.py"],
        cwd=classifier.parent, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert broken.returncode == 2
    # With no PATH, shells that onnxruntime asks about the machine may have said so before.
    said = [line for line in broken.stderr.splitlines() if not line.startswith("sh: ")]
    assert said == ["error: 'predict.py' is not an image in a format that can be read (JPEG, PNG, …)"]


def test_a_wrong_graph_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Planted: the traced network has another bias than the model that it is compared with."""
    model = model_with_header("classifier")
    save_model(tmp_path / "run.safetensors", model, model.header)
    trace = onnx_graph.network_onnx

    def wrong(network):
        with torch.no_grad():
            network.model.head.bias += 0.01
            graph = trace(network)
            network.model.head.bias -= 0.01
        return graph

    monkeypatch.setattr(onnx_graph, "network_onnx", wrong)
    words = [f"checkpoint={tmp_path / 'run.safetensors'}", f"output={tmp_path / 'out'}"]
    monkeypatch.setattr(sys, "argv", ["vertebra", "export", *words])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert (
        "run.onnx is not written, because it does not find what the model finds: batch 1, 1 images of" in said
    )
    assert "logits differ by 1.0e-02" in said
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tile=640"], "tile=, scales= and flip= are what predict does"),
        (["flip=true"], "tile=, scales= and flip= are what predict does"),
        (["model.soft_nms_sigma=0.5"], "soft suppression goes box by box"),
        (["format=torch_export", "precision=int8"], "format=torch_export is a network in fp32"),
        (["precision=int8"], "precision=int8 takes ranges of values from images; give data="),
        (["format=coreml"], "format=coreml is unknown; wanted onnx or torch_export"),
    ],
)
def test_what_is_refused(words: list[str], message: str, tmp_path: Path, monkeypatch, capsys) -> None:
    model = model_with_header("retinanet")
    save_model(tmp_path / "run.safetensors", model, model.header)
    given = [f"checkpoint={tmp_path / 'run.safetensors'}", f"output={tmp_path / 'out'}", *words]
    monkeypatch.setattr(sys, "argv", ["vertebra", "export", *given])
    with pytest.raises(SystemExit) as stopped:
        command_line.main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_antialiased_pictures_are_resized_by_the_program(tmp_path: Path) -> None:
    preprocessing = Preprocessing(short_side=80, center_crop=64, antialias=True)
    model = model_with_header("classifier", preprocessing)
    with pytest.raises(ValueError, match="give input=network"):
        export(model, tmp_path, settings=ExportSettings(input="pictures"))
    exported = export(model, tmp_path, name="small")
    assert exported.file.name == "small.network.onnx"
    predictor = Predictor(model, device="cpu", precision="32-true")
    assert check_pictures(predictor, tasks.load_predictor(exported.file), pictures()).logit < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_model_finds_the_same(kind: str, tmp_path: Path) -> None:
    if kind not in MODELS:
        pytest.skip(f"there is no small {kind}")
    model = model_with_header(kind)
    exported = export(model, tmp_path, name=kind, pictures=pictures())
    assert len(exported.checks) == 3 and all("batches" in check for check in exported.checks)
    found = tasks.load_predictor(exported.file)(pictures()[0])
    assert len(found) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["retinanet", "mask_rcnn"])
def test_a_program_of_torch_alone(kind: str, tmp_path: Path) -> None:
    exported = export(
        model_with_header(kind), tmp_path, name=kind, settings=ExportSettings(format="torch_export")
    )
    code = f"""
import sys, torch, torchvision
program = torch.export.load({str(exported.file)!r}, extra_files=(files := {{"vertebra.json": ""}}))
found = program.module()(torch.zeros(3, 3, 256, 320, dtype=torch.uint8), torch.tensor([[256, 320], [200, 99], [1, 1]]))
assert not {{"tasks", "backbones"}} & set(sys.modules) and "class_names" in files["vertebra.json"]
print([tuple(one.shape) for one in found])
"""
    environment = {"PATH": "", "PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0 and done.stdout.startswith("[(3, "), done.stderr


@pytest.mark.slow
def test_int8_is_small_and_scored_before_it_is_kept(tmp_path: Path) -> None:
    quiet_lightning()
    data = tasks.data.open("single_digits", num_train=40, num_val=20)
    model = model_with_header("classifier", Preprocessing(short_side=None), class_names=data.class_names)
    settings = ExportSettings(precision="int8", num_calibration=8, num_pictures=2, max_drop=1.0)
    exported = export(model, tmp_path, name="digits", data=data, settings=settings)
    assert exported.file.name == "digits.int8.onnx"
    before, after = exported.numbers["top1"]
    assert 0 <= before <= 1 and abs(before - after) <= 0.5
    graph = onnx.load(exported.file).graph
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) > 5
    names = {node.op_type for node in graph.node for name in node.output if name == "logits"}
    assert not names & {"DequantizeLinear", "QuantizeLinear"}  # the last layer stays in fp32
    found = tasks.load_predictor(exported.file)(np.zeros((32, 32, 3), np.uint8))
    assert found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="int8 takes top1 from .* nothing is written"):
        check_drop("top1", 0.9, 0.5, 0.3)
    check_drop("top1", 0.9, 0.61, 0.3)
