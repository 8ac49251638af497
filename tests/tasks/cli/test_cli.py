"""Settings from the command line, and the sentence for each mistake."""

import resource
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tasks.cli.compose import MOVED, compose, load_config
from tasks.cli.folders import config_groups, put_on_top, take_config_dirs
from tasks.cli.main import as_settings, help_text

ROOT = Path(__file__).parents[3]


def test_defaults_train_a_detector_on_the_embedded_digits() -> None:
    config = compose("train", [])
    assert config.task.name == "detection"
    assert config.model.name == "faster_rcnn"
    assert config.data._target_ == "tasks.data.formats.digits.DigitsData"


def test_backbone_is_short_for_its_name() -> None:
    config = compose("train", ["backbone=resnet34", "backbone.frozen_stages=1"])
    assert (config.backbone.name, config.backbone.frozen_stages) == ("resnet34", 1)


@pytest.mark.parametrize(
    "setting",
    ["model.score_threshold=0.3", "data.num_train=7", "backbone.norm=frozen", "preprocessing.max_size=64",
     "optimizer.betas=[0.9,0.99]", "trainer.devices=1", "schedule.final=0.1", "pyramid.norm=batch"],
)  # fmt: skip
def test_any_argument_of_a_configured_object_can_be_set(setting: str) -> None:
    key, value = setting.split("=")
    node = compose("train", [setting])
    for part in key.split("."):
        node = node[part]
    assert str(node).replace(" ", "") == value


@pytest.mark.parametrize(
    ("setting", "hint"),
    [
        ("model.score_treshold=0.3", "did you mean model.score_threshold"),
        ("trainer.max_step=3", "did you mean trainer.max_steps"),
        ("max_steps=3", "did you mean trainer.max_steps"),
        ("optimiser.lr=1", "did you mean optimizer"),
        ("loader.batchsize=3", "did you mean loader.batch_size"),
        ("data=cocco", "did you mean coco"),
        ("task=detektion", "did you mean detection"),
        ("model=fasterrcnn", "did you mean faster_rcnn"),
        ("backbone.nrom=frozen", "did you mean backbone.norm"),
        ("data.numtrain=3", "did you mean data.num_train"),
        ("preprocessing.shortside=3", "did you mean preprocessing.short_side"),
    ],
)
def test_misspelt_setting_names_the_nearest(setting: str, hint: str) -> None:
    with pytest.raises(ValueError, match=hint):
        compose("train", [setting])


def test_setting_without_equals_sign() -> None:
    with pytest.raises(ValueError, match="settings are given as key=value"):
        compose("train", ["task"])


def test_missing_root_says_how_to_give_it() -> None:
    with pytest.raises(ValueError, match=r"data\.root is not set; give data\.root="):
        compose("train", ["data=coco"])


def test_help_names_every_group_and_setting_at_once() -> None:
    text = help_text("train", "usage")
    assert "model=classifier|" in text and "|faster_rcnn|" in text
    assert "batch_size" in text
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        [sys.executable, ROOT / "tools/train.py", "--help"], capture_output=True, text=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert result.returncode == 0
    assert "python tools/train.py task=detection" in result.stdout
    # Of the processor, as other programs may have the clock.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5


def test_mistake_is_one_sentence_and_traceback_on_request() -> None:
    command = [sys.executable, ROOT / "tools/train.py", "modle.name=x"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown setting 'modle.name'; did you mean model")
    assert "Traceback" not in result.stderr
    result = subprocess.run([*command, "--traceback"], capture_output=True, text=True)
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_config_of_an_earlier_run_names_the_modules_of_its_time(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "data: {_target_: tasks.data.coco.CocoData, root: there}\n"
        "schedule: {_target_: tasks.harness.optim.constant, _partial_: true}\n"
        "augmentation:\n  transforms:\n  - _target_: tasks.data.sizing.MultiScale\n    min_sides: [10]\n"
    )
    config = load_config(path)
    assert config.data == {"_target_": "tasks.data.formats.coco.CocoData", "root": "there"}
    assert config.schedule == {"_target_": "tasks.harness.optim.constant", "_partial_": True}
    assert config.augmentation.transforms[0] == {
        "_target_": "tasks.data.augmentation.scale.MultiScale",
        "min_sides": [10],
    }


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_moved_modules_are_where_the_table_says(old: str, new: str) -> None:
    assert find_spec(old) is None
    assert find_spec(new) is not None


def test_a_folder_of_ones_own_configurations_on_top(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "data").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nseed: 7\n")
    (tmp_path / "data" / "coco.yaml").write_text("_target_: tasks.data.formats.coco.CocoData\nroot: mine\n")
    words, folders = take_config_dirs(["data=coco", "--config-dir", str(tmp_path), "experiment=mine"])
    assert (words, folders) == (["data=coco", "experiment=mine"], [tmp_path])
    with pytest.raises(ValueError, match="experiment=mine is not in configs/experiment/"):
        compose("train", words)
    try:
        put_on_top(folders)
        config = compose("train", words)
        assert "mine" in config_groups()["experiment"] and "nuclei" in config_groups()["experiment"]
    finally:
        put_on_top([])
    assert config.seed == 7
    assert config.data.root == "mine"  # theirs has no root until it is given
    with pytest.raises(ValueError, match="--config-dir nowhere is not a folder"):
        take_config_dirs(["--config-dir=nowhere"])


@pytest.mark.parametrize(
    ("words", "settings"),
    [
        (["a", "b,c=1", "--json", "x y.json", "size=2"], ["size=2", "runs=['a','b,c=1']", "json='x y.json'"]),
        (["--size", "224", "64x96", "--batch=8", "it's"], ["runs=['it\\'s']", "size=[224,64x96]", "batch=8"]),
        (["runs=[a,b]", "device=cpu"], ["runs=[a,b]", "device=cpu"]),
    ],
)
def test_plain_words_and_options_as_settings(words: list[str], settings: list[str]) -> None:
    assert list(as_settings(words, "runs", ("size",))) == settings
