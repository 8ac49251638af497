"""Settings from the command line, and the sentence for each mistake."""

import resource
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from tasks.cli.commands import help_text
from tasks.cli.compose import compose
from tasks.cli.data import data_of, transforms_of
from tasks.cli.folders import config_groups, put_on_top, take_config_dirs
from tasks.cli.run_config import MOVED, load_config
from tasks.cli.settings import record_of, settings_of, spec_of
from tasks.cli.targets import build
from tasks.cli.words import RENAMED, as_settings
from tasks.harness.settings import TrainSettings
from tasks.harness.start import recipe_settings, resolve
from tasks.zoo.task_specs import TASK_SPECS
from tests.commands import command

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


@pytest.mark.parametrize("key", ["run_dir", "init_from", "data.root"])
def test_a_place_that_is_empty_is_not_the_current_folder(key: str) -> None:
    with pytest.raises(ValueError, match=f"{key}= is empty; give it a value, or leave it out"):
        compose("train", ["data=coco", "data.root=x", f"{key}="])


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
    result = command("train", "modle.name=x")
    assert result.returncode == 2
    assert result.stderr.startswith("error: unknown setting 'modle.name'; did you mean model")
    assert "Traceback" not in result.stderr
    with pytest.raises(ValueError, match="unknown setting 'modle.name'"):  # as it was raised
        command("train", "modle.name=x", "--traceback")


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "config.yaml is not the configuration of a run"),
        ("data: 3", "config.yaml is not the configuration of a run"),
        ("logger: 3", "config.yaml is not the configuration of a run"),
    ],
)
def test_config_that_no_run_has_written(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        compose("train", [f"resume={tmp_path}"])


def test_a_file_that_is_not_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    for file in ("experiment/mine.yaml", "config.yaml"):
        (tmp_path / file).write_text("# @package _global_\nseed: [1\n")
    for words in (["experiment=mine", "--config-dir", tmp_path], [f"resume={tmp_path}"]):
        done = command("train", *words)
        assert done.returncode == 2 and "a file of settings is not YAML" in done.stderr
        assert '.yaml", line 2' in done.stderr and done.stderr.count("\n") == 2


@pytest.mark.parametrize(("old", "new"), MOVED.items())
def test_moved_modules_are_where_the_table_says(old: str, new: str) -> None:
    assert find_spec(old) is None
    assert find_spec(new) is not None


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("predict", "source=photo (1).png"),
        ("predict", "source=a,b [c] {d} ${e} 'f'.png"),
        ("evaluate", "checkpoint=epoch=1-step=2.ckpt"),
        ("train", "init_from=runs/lr=0.1,seed=2/model.safetensors"),
        ("train", "run_dir=runs/of today (2)"),
        ("train", "data.root=C:/my data/(1)"),
        ("train", r"data.group_pattern=(patient\d+)"),
        ("train", "data.train=2012"),
    ],
)
def test_paths_are_taken_as_they_stand(command: str, word: str) -> None:
    key, text = word.split("=", 1)
    more = {"predict": ["checkpoint=x"], "train": ["data=voc"]}.get(command, [])
    more += ["data.root=x"] if command == "train" and key != "data.root" else []
    more += ["source=x"] if command == "predict" and key != "source" else []
    node = compose(command, [*more, word])
    for part in key.split("."):
        node = node[part]
    assert node == text


def test_no_path_is_null() -> None:
    config = compose(
        "train", ["init_from=null", "run_dir=null", "pretrained=null", "backbone.pretrained=true"]
    )
    assert config.init_from is None and config.run_dir is None and config.pretrained is None
    assert config.backbone.pretrained is True


def test_several_values_want_multirun() -> None:
    with pytest.raises(ValueError, match="seed=1,2 asks for several values; give --multirun"):
        compose("train", ["seed=1,2"])


MODULE = """
import pathlib
pathlib.Path("it_ran").touch()
class Flip:
    def __init__(self, p=0.5):
        self.p = p
"""


def test_a_configuration_names_nothing_but_what_is_in_the_table(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_code.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["augmentation.transforms=[{_target_: my_code.Flip, p: 0.25}]"]
    with pytest.raises(
        ValueError, match="_target_=my_code.Flip is not among .*allow_code=my_code on the command"
    ):
        transforms_of(compose("train", words))
    assert not (tmp_path / "it_ran").exists()
    (flip,) = transforms_of(compose("train", [*words, "allow_code=my_code"]))
    assert flip.p == 0.25 and (tmp_path / "it_ran").exists()


@pytest.mark.parametrize(
    "target",
    ["os.system", "subprocess.Popen", "torch.load", "torch.optim.lr_scheduler.os.system", "albumentations.os.system",
     "builtins.eval", "albumentations.core.serialization.load", "torch.hub.load", "tasks.harness.train.train"],
)  # fmt: skip
def test_dangerous_targets(target: str) -> None:
    with pytest.raises(ValueError, match="_target_|optimizer"):
        build({"_target_": target})


def test_allow_code_in_a_file_of_a_run_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "allow_code: [os]\nrun_dir: null\nresume: null\nlogger: {}\n"
        "data: {_target_: os.system, command: 'touch it_ran'}\n"
    )
    config = compose("train", [f"resume={tmp_path}"])
    assert not config.allow_code
    with pytest.raises(ValueError, match="_target_=os.system is not among"):
        data_of(config)
    assert "allow_code" not in record_of(compose("train", ["allow_code=os"]), ()).config


def test_settings_of_a_configuration() -> None:
    words = ["optimizer=sgd", "optimizer.nesterov=true", "schedule=warmup_steps", "schedule.milestones=[0.5]",
             "trainer.devices=2", "loader.num_workers=3", "ema=0.99", "task.backbone_lr_scale=0.1"]  # fmt: skip
    settings = settings_of(TrainSettings, compose("train", words))
    assert (settings.optimizer.name, settings.optimizer.lr) == ("torch.optim.SGD", 0.02)
    assert settings.optimizer.options == {"momentum": 0.9, "weight_decay": 0.0001, "nesterov": True}
    assert (settings.schedule.name, settings.schedule.options) == ("warmup_steps", {"milestones": [0.5]})
    assert settings.trainer.devices == 2 and settings.loader.num_workers == 3
    assert settings.ema == 0.99 and settings.reference_batch_size == 16
    assert settings.task == {"backbone_lr_scale": 0.1} and settings.preprocessing.short_side is None


@pytest.mark.parametrize("task", TASK_SPECS)
def test_python_and_command_line_start_from_the_same(task: str) -> None:
    config = compose("train", [f"task={task}"])
    source = data_of(config)
    settings = recipe_settings(task, source)
    composed = settings_of(TrainSettings, config)
    assert composed.augmentation == []  # a mirrored digit is no digit, in Python by the data itself
    same = replace(composed, augmentation=None, loggers=settings.loggers)
    trainer = replace(same.trainer, val_check_interval="max_steps")
    assert same.trainer.val_check_interval == same.trainer.max_steps
    assert replace(same, trainer=trainer) == settings
    spec = resolve(task, source, None, None, "usual", None).spec
    composed_spec = spec_of(config)
    composed_spec["backbone"].pop("pretrained")
    assert {**composed_spec, "pyramid": composed_spec["pyramid"] or None} == spec


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


def test_earlier_names_of_settings_are_read_with_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["task=detection", "model=yolox", "task.closing=0.2", "data=coco", f"data.root={tmp_path}/on_bad"]
    mosaic = "{_target_: tasks.data.augmentation.multi_image.Mosaic, closing_epochs: 3}"
    config = compose("train", [*words, "data.on_bad=drop", f"augmentation.transforms=[{mosaic}]"])
    assert config.task.l1_final_fraction == 0.2
    assert "closing" not in config.task
    assert config.data.on_invalid == "drop"
    assert config.data.root == f"{tmp_path}/on_bad"
    assert config.augmentation.transforms[0].close_mosaic_epochs == 3
    notes = sorted(capsys.readouterr().err.splitlines())
    assert notes == sorted(f"note: the setting {old} is called {new} now" for old, new in RENAMED.items())


def test_earlier_names_of_settings_in_the_config_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "task: {name: detection, closing: 0.2}\n"
        "data: {on_bad: fix, closing: 1}\n"
        "augmentation:\n  transforms:\n  - {p: 1, closing_epochs: 3}\n"
    )
    config = load_config(path)
    assert config == {
        "task": {"name": "detection", "l1_final_fraction": 0.2},
        "data": {"on_invalid": "fix", "closing": 1},
        "augmentation": {"transforms": [{"p": 1, "close_mosaic_epochs": 3}]},
    }
    assert len(capsys.readouterr().err.splitlines()) == 3
