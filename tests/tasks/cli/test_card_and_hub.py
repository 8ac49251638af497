"""Model cards that the hub's own client reads, and model files that go there and come back the same."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

import tasks
from tasks.cli.card import card
from tasks.cli.compose import compose
from tasks.cli.hub import pull, push
from tasks.zoo.card import MARK, Beside, in_line, write_card
from tasks.zoo.model_file import Header, read, save_model
from tests.commands import command
from tests.tasks.cli.hub_server import Hub, serving
from tests.tasks.inference.small_files import CLASSES, model_file, write_pictures

METRICS = {"AP": 0.5841, "AP50": 0.91, "AP_large": float("nan"), "AP/cell": 0.6}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """What a run leaves: a model file with its numbers, their intervals, and a picture."""
    folder = tmp_path_factory.mktemp("run")
    model = tasks.load_model(model_file("detection", folder))
    model.header.metrics = METRICS
    model.header.provenance = {
        "data": "tasks.data.formats.voc.VocData", "pretrained": "True", "seed": 3, "versions": {"torch": "2.14"},
        "init_from": {"task": "detection", "model": "faster_rcnn", "pretrained": "coco.pth", "licence": "BSD-3-Clause"},
    }  # fmt: skip
    model.header.model["backbone"]["name"] = "resnet"
    save_model(folder / "model.safetensors", model, model.header)
    (folder / "detection.safetensors").unlink()
    intervals = {"images": 87, "interval_low/AP": 0.556, "interval_high/AP": 0.611}
    (folder / "metrics.json").write_text(json.dumps({**METRICS, **intervals}))
    Image.new("RGB", (30, 20)).save(folder / "predictions.jpg")
    return folder


def test_a_card_is_what_the_hub_reads(run: Path, tmp_path: Path, capsys) -> None:
    from huggingface_hub import ModelCard

    words = [
        "licence=Apache-2.0",
        "dataset=blood smears, of BCCD",
        "name=Cells",
        f"output={tmp_path / 'card'}",
    ]
    card(compose("card", [f"checkpoint={run}", *words]))
    assert capsys.readouterr().out == f"{tmp_path / 'card'}: README.md, predictions.jpg\n"
    assert (tmp_path / "card" / "predictions.jpg").read_bytes() == (run / "predictions.jpg").read_bytes()
    found = ModelCard.load(tmp_path / "card" / "README.md")
    data = found.data
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "vertebra",
        "object-detection",
    )
    assert data.model_name == "Cells" and "faster-rcnn" in data.tags
    results = {(r.metric_name, r.metric_value, r.dataset_name) for r in data.eval_results}
    assert results == {("AP", 0.5841, "blood smears, of BCCD"), ("AP50", 0.91, "blood smears, of BCCD")}
    text = found.text
    assert "| AP | 0.584 | 0.556 to 0.611 |" in text and "On 87 images." in text
    assert "![What it finds](predictions.jpg)" in text
    assert 'tasks.load_predictor("model.safetensors")' in text
    assert "| 2 | thing, odd | 90 |" in text
    assert "started from faster\\_rcnn coco.pth | licence: BSD-3-Clause" in text
    assert "It contains what was learnt from:" in text and "| short\\_side | None |" in text


def test_what_nobody_said_is_not_made_up(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    done = command("card", "model.safetensors", cwd=tmp_path)  # a first word without a key
    assert done.returncode == 0, done.stderr
    assert "note: the card states no licence" in done.stdout
    text = (tmp_path / "README.md").read_text()
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert (metadata["license"], metadata["license_name"]) == ("other", "not-stated")
    assert "no licence was stated for this model" in text and "which data it was trained on" in text
    assert "95 %" not in text and "| AP | 0.584 |" in text  # of the file's own header
    assert not (tmp_path / "predictions.jpg").exists()
    (tmp_path / "README.md").write_text(text.replace("_To be filled in: what it was made for", "For cells"))
    assert command("card", "model.safetensors", "licence=MIT", cwd=tmp_path).returncode == 0
    (tmp_path / "README.md").write_text("# Mine\n")
    done = command("card", "model.safetensors", cwd=tmp_path)
    assert done.returncode == 2 and "was not written by vertebra card" in done.stderr
    assert (tmp_path / "README.md").read_text() == "# Mine\n"


def test_pictures_of_a_source(run: Path, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 8)
    words = [f"source={tmp_path / 'in'}", "score_threshold=0.1", f"output={tmp_path / 'card'}"]
    card(compose("card", [f"checkpoint={run / 'model.safetensors'}", *words]))
    with Image.open(tmp_path / "card" / "predictions.jpg") as sheet:
        assert sheet.width > 400 and max(sheet.size) <= 1600


def test_numbers_of_other_weights_are_left_out(run: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((run / "model.safetensors").read_bytes())
    (tmp_path / "metrics.json").write_text(json.dumps({"AP": 0.9, "images": 3}))
    card(compose("card", [f"checkpoint={tmp_path / 'model.safetensors'}"]))
    text = (tmp_path / "README.md").read_text()
    assert "| AP | 0.584 |" in text and "3 images" not in text


def test_every_task_has_a_card(tmp_path: Path) -> None:
    for task in ("classification", "instance_segmentation", "semantic_segmentation"):
        header, _ = read(model_file(task, tmp_path))
        text = write_card(header, Beside(task))
        assert "It has not been evaluated." in text and MARK in text
        assert "model-index" not in yaml.safe_load(text.split("---\n")[1])


def test_names_are_text_and_nothing_else(run: Path) -> None:
    header, _ = read(run / "model.safetensors")
    header = Header(**{**vars(header), "class_names": ["a|b", "<script>", "![x](http://y)"]})
    text = write_card(header, Beside("--- \n evil: [true]"))
    assert "<script>" not in text and "![x]" not in text and "| a\\|b |" in text
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert "evil" not in metadata and metadata["model-index"][0]["name"] == "--- \n evil: [true]"
    assert in_line("a\n# b") == "a \\# b"


def test_licences_of_published_backbones(run: Path) -> None:
    header, _ = read(run / "model.safetensors")
    header.model["backbone"] = {"name": "vgg16"}
    header.provenance = {"pretrained": "IMAGENET1K_FEATURES"}
    assert "- backbone vgg16 from IMAGENET1K\\_FEATURES: CC-BY-4.0" in write_card(header, Beside("x"))
    header.model["backbone"] = {"name": "resnet50d"}
    header.provenance = {"pretrained": "True"}
    assert "- backbone resnet50d from ra2\\_in1k: Apache-2.0" in write_card(header, Beside("x"))
    header.provenance = {"pretrained": "/home/me/secret/weights.pth"}
    text = write_card(header, Beside("x"))
    assert "weights.pth: not stated" in text and "secret" not in text


@pytest.fixture
def hub(monkeypatch) -> Iterator[tuple[str, Hub]]:
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    with serving() as found:
        yield found


def test_a_model_goes_to_the_hub_and_comes_back(run: Path, hub: Any, tmp_path: Path, capsys) -> None:
    address, held = hub
    words = [f"checkpoint={run / 'model.safetensors'}", "repo=me/cells", "licence=MIT", f"endpoint={address}"]
    push(compose("push", words))
    assert "me/cells: model.safetensors and README.md (" in capsys.readouterr().out
    files = held.files["me/cells"]
    assert set(files) == {"README.md", "model.safetensors", "predictions.jpg"} and held.is_private["me/cells"]
    assert files["model.safetensors"] == (run / "model.safetensors").read_bytes()
    assert b"license: mit" in files["README.md"]
    output = tmp_path / "out"
    pull(compose("pull", ["repo=me/cells", f"output={output}", f"endpoint={address}"]))
    assert (output / "model.safetensors").read_bytes() == files["model.safetensors"]
    assert f"predict checkpoint={output / 'model.safetensors'}" in capsys.readouterr().out
    assert tasks.load_predictor(output / "model.safetensors", device="cpu").header.class_names == CLASSES
    with pytest.raises(FileExistsError, match="is not empty; give another folder"):
        pull(compose("pull", ["repo=me/cells", f"output={output}", f"endpoint={address}"]))


@pytest.mark.slow
def test_what_the_hub_refuses_is_one_sentence(run: Path, hub: Any, tmp_path: Path, monkeypatch) -> None:
    address, held = hub
    words = [f"output={tmp_path / 'out'}", f"endpoint={address}"]
    with pytest.raises(ValueError, match="repo=me/none: the hub did not do it"):
        pull(compose("pull", ["repo=me/none", *words]))
    held.files["me/other"] = {"model.safetensors": b"no model at all"}
    with pytest.raises(ValueError, match="model.safetensors"):
        pull(compose("pull", ["repo=me/other", *words]))
    with pytest.raises(ValueError, match="repo=a/b/c is not the name of a repository"):
        pull(compose("pull", ["repo=a/b/c", *words]))
    with pytest.raises(ValueError, match="repo=me/cells: the hub did not do it"):
        pull(compose("pull", ["repo=me/cells", f"output={tmp_path / 'out'}", "endpoint=http://127.0.0.1:9"]))
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        ValueError, match="repo=me/cells: the hub did not do it .*; check the name, and HF_TOKEN"
    ):
        push(compose("push", [f"checkpoint={run}", "repo=me/cells", f"endpoint={address}"]))
    assert not (tmp_path / "out").exists() and "me/cells" not in held.files


def test_without_the_client(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match=r"pip install 'vertebra\[hub\]' brings it"):
        pull(compose("pull", ["repo=me/cells"]))
