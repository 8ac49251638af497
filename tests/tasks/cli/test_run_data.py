"""A model is scored on the data of the run that made it, where that is still there and no other is given."""

import shutil
from pathlib import Path

import pytest
import yaml

from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tests.commands import command
from tests.tasks.data.formats import layouts
from tests.tiny_runs import NETWORK, tiny_run

WORDS = [
    *NETWORK, "task=detection", "loader.batch_size=2", "pyramid.channels=16", "preprocessing.short_side=48",
    "model.rpn_post_nms_train=20", "model.rpn_post_nms_test=10", "model.box_representation_size=16",
    "trainer.max_steps=1", "trainer.val_check_interval=1", "trainer.check_val_every_n_epoch=null",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which data was looked for and a detector trained on it, both named relative to it."""
    place = tmp_path_factory.mktemp("place")
    layouts.xml_beside(place / "photos", layouts.whole())
    result = command("train", *WORDS, "data.root=photos", "run_dir=runs/first", cwd=place)
    assert result.returncode == 0, result.stderr
    return place


def test_a_run_says_first_what_it_found(place: Path) -> None:
    log = (place / "runs/first/log.txt").read_text()
    assert log.startswith(
        "found VOC's XML files, beside the pictures: train 8, val 2 images; 2 classes (cat, dog); no splits of its own"
    )
    data = yaml.safe_load((place / "runs/first/config.yaml").read_text())["data"]
    assert data == {
        "_target_": "tasks.data.formats.xml_files.XmlData", "root": "photos", "train_images": ".",
        "train_annotations": ".", "split": "0.8/0.2", "near_copies": True, "on_invalid": "fix_few",
    }  # fmt: skip


@pytest.mark.parametrize(
    "file", ["runs/first/model.safetensors", "runs/first/checkpoints/last.ckpt", "runs/first"]
)
def test_the_data_of_the_run(place: Path, tmp_path: Path, file: str) -> None:
    result = command("evaluate", f"checkpoint={place / file}", f"run_dir={tmp_path / 'out'}", cwd=place)
    assert result.returncode == 0, result.stderr
    assert (
        f"found the data of the run in {place / 'runs/first'}: val 2 images; 2 classes (cat, dog)"
        in result.stdout
    )


def test_it_is_found_from_anywhere(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = compose("evaluate", [f"checkpoint={place / 'runs/first/model.safetensors'}"])
    assert config.data.root == str(place / "photos")
    other = compose("evaluate", [f"checkpoint={place / 'runs/first'}", f"data.root={place / 'photos'}"])
    assert other.data.root == str(place / "photos")
    assert other.found.startswith("VOC's XML files")
    assert compose("evaluate", [f"checkpoint={place / 'runs/first'}", "data=digits"]).data._target_.endswith(
        "DigitsData"
    )


def test_data_that_is_gone(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs/first", tmp_path / "runs/first")
    with pytest.raises(
        FileNotFoundError, match=r"trained on, photos, is not there any more; give .* with data.root=DIR"
    ):
        compose("evaluate", [f"checkpoint={tmp_path / 'runs/first/model.safetensors'}"])
    shutil.copy(place / "runs/first/model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(
        ValueError, match="is not beside it, so nothing says where its data is; give data.root=DIR"
    ):
        compose("evaluate", [f"checkpoint={tmp_path / 'alone.safetensors'}"])


def test_a_run_of_somebody_elses_code_imports_nothing(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "runs/first", tmp_path / "run")
    path = tmp_path / "run/config.yaml"
    path.write_text(path.read_text().replace("tasks.data.formats.xml_files.XmlData", "os.system"))
    with pytest.raises(ValueError, match=r"a data set of its own code \(os.system\); give data="):
        compose("evaluate", [f"checkpoint={tmp_path / 'run'}"])


def test_a_classifier_needs_no_word(tmp_path: Path) -> None:
    run = tiny_run("classification", tmp_path / "run", steps=2)
    evaluate(
        compose("evaluate", [f"checkpoint={run}", f"run_dir={tmp_path / 'a'}", "trainer.accelerator=cpu"])
    )
    shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    config = compose("evaluate", [f"checkpoint={tmp_path / 'alone.safetensors'}"])
    assert config.data._target_.endswith("SingleDigitsData")
