"""The model file: round trips, what is refused and with which words."""

import hashlib
import json
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tasks import load_model, load_predictor
from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import FORMAT_VERSION, METADATA_KEY, Header, read, save_model
from tasks.zoo.registry import build_model, resolved_spec
from tests.tiny_runs import checkpoint

SPEC = {"name": "faster_rcnn", "backbone": {"name": "resnet18"}, "pyramid": {"name": "fpn", "channels": 16}}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    preprocessing = Preprocessing(short_side=64, max_size=96)
    model = build_model(SPEC, num_classes=2, preprocessing=preprocessing)
    header = Header(
        "detection", resolved_spec(SPEC, model), ["cat", "dog"], [17, 18], preprocessing.to_dict()
    )
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    save_model(path, model, header)
    return path, model, header


def test_a_file_of_version_1_still_predicts_the_same() -> None:
    """`version_1.safetensors` was written by vertebra 0.1.0, and its JSON says what it found then. Neither is ever
    written again: files of users are as old."""
    folder = Path(__file__).parent
    expected = json.loads((folder / "version_1.json").read_text())
    predictor = load_predictor(folder / "version_1.safetensors", device="cpu", precision="32-true")
    assert (predictor.header.class_names, predictor.header.category_ids) == (["cat", "dog"], [17, 18])
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    found = predictor(image)
    count = len(expected["scores"])
    assert found.class_names[:count] == expected["class_names"]
    np.testing.assert_allclose(found.scores[:count], expected["scores"], rtol=1e-4)
    np.testing.assert_allclose(found.boxes[:count], expected["boxes"], atol=0.01)


VERSION_1 = Path(__file__).parent / "version_1"
EXPECTED = json.loads((VERSION_1 / "expected.json").read_text())


def stored_header(path: Path) -> dict:
    if path.suffix == ".ckpt":
        return torch.load(path, weights_only=True)[METADATA_KEY]
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()[METADATA_KEY])


@pytest.mark.parametrize("name", EXPECTED)
def test_a_file_of_each_task_of_version_1_opens_and_predicts_the_same(name: str) -> None:
    """Commit a889367 wrote these files, a checkpoint among them, and found in them what `expected.json` says."""
    path, expected = VERSION_1 / name, EXPECTED[name]
    model = load_model(path)
    assert json.dumps(asdict(model.header)) == json.dumps(stored_header(path))  # as text: nan is not nan
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode() + value.numpy().tobytes())
    assert digest.hexdigest() == expected["tensors"]

    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    found = load_predictor(path, device="cpu", precision="32-true")(image)
    if "pixels" in expected:
        np.testing.assert_allclose(np.bincount(found.class_map.reshape(-1)), expected["pixels"], atol=5)
        return
    assert found.labels.tolist() == expected["labels"]
    np.testing.assert_allclose(found.scores, expected["scores"], rtol=1e-4)
    np.testing.assert_allclose(found.boxes, expected["boxes"], atol=0.01)
    if "areas" in expected:
        np.testing.assert_allclose([mask.sum() for mask in found.masks], expected["areas"], atol=5)


def test_a_run_of_version_1_resumes(tmp_path) -> None:
    run = tmp_path / "run"
    shutil.copytree(VERSION_1 / "run", run)
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")  # as it had
    train(compose("train", [f"resume={run}", "trainer.max_steps=3"]))
    assert checkpoint(run)["global_step"] == 3


def altered(saved, tmp_path, **changes):
    """The file again, with another header."""
    path, _, header = saved
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    out = tmp_path / "altered.safetensors"
    save_file(tensors, out, metadata={METADATA_KEY: json.dumps({**asdict(header), **changes})})
    return out


def test_round_trip_keeps_weights_and_header(saved) -> None:
    path, model, header = saved
    loaded = load_model(path)
    assert loaded.header == header
    assert not loaded.training
    for (name, a), (other, b) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(a, b)


def test_header_is_plain_and_complete(saved) -> None:
    header, _ = read(saved[0])
    assert header.format_version == FORMAT_VERSION
    assert header.model["score_threshold"] == 0.05  # a default of the builder, written out
    assert "pretrained" not in header.model["backbone"]
    assert header.category_ids == [17, 18]
    assert list(saved[0].parent.iterdir()) == [saved[0]]  # no partial file stays


@pytest.mark.parametrize(
    "model",
    [
        {**SPEC, "name": "os.system"},
        {**SPEC, "name": "torchvision.models:resnet18"},
        {**SPEC, "_target_": "os.system"},
        {**SPEC, "backbone": {"name": "resnet18", "_target_": "os.system"}},
        {**SPEC, "backbone": {"name": "torchvision.models.resnet18"}},
    ],
)
def test_a_file_that_names_code_is_refused(saved, tmp_path, model) -> None:
    with pytest.raises(ValueError, match="unknown|refused|no option|no backbone is called"):
        load_model(altered(saved, tmp_path, model=model))


def test_an_unknown_model_names_the_nearest(saved, tmp_path) -> None:
    with pytest.raises(ValueError, match="unknown model 'faster_rcn'.*faster_rcnn"):
        load_model(altered(saved, tmp_path, model={**SPEC, "name": "faster_rcn"}))


def test_a_version_from_the_future_is_named(saved, tmp_path) -> None:
    with pytest.raises(ValueError, match="format version 99.*reads 1.*[Ii]nstall a newer"):
        load_model(altered(saved, tmp_path, format_version=99))


def test_an_unknown_task_is_refused(saved, tmp_path) -> None:
    with pytest.raises(ValueError, match="unknown task 'cooking'"):
        load_model(altered(saved, tmp_path, task="cooking"))


def test_weights_of_another_model_are_refused(saved, tmp_path) -> None:
    with pytest.raises(ValueError, match="not those of the model"):
        load_model(altered(saved, tmp_path, class_names=["a", "b", "c"], category_ids=[1, 2, 3]))


def test_truncated_file(saved, tmp_path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(saved[0].read_bytes()[:-1000])
    with pytest.raises(ValueError, match="not a readable model file"):
        load_model(path)


def test_missing_file(tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file or checkpoint at .*nothing.ckpt"):
        load_model(tmp_path / "nothing.ckpt")


def test_safetensors_without_header(tmp_path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no vertebra header"):
        load_model(tmp_path / "other.safetensors")


def test_file_that_is_no_checkpoint(tmp_path) -> None:
    path = tmp_path / "notes.ckpt"
    path.write_text("hello")
    with pytest.raises(ValueError, match="notes.ckpt is not a checkpoint"):
        load_model(path)


def test_foreign_checkpoint(tmp_path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint of this project"):
        load_model(tmp_path / "foreign.ckpt")


def test_checkpoint_with_code_runs_nothing(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(ValueError, match="read as data alone"):
        load_model(tmp_path / "bomb.ckpt")
    assert not (tmp_path / "ran").exists()
