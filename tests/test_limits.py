"""Tries of a few batches work for what they are for, and say whose scores they print; nonsense is refused at once."""

import json
import signal
from pathlib import Path

import pytest

from tasks.harness.task import Task
from tests.commands import command
from tests.tiny_runs import TINY, checkpoint

CLASSES = [
    *TINY["classification"],
    "data.num_train=8",
    "data.num_val=12",
    "trainer.max_steps=2",
    "run_dir=run",
]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trainer.fast_dev_run=true"], "scores are of 4 of 12 images alone"),
        (["trainer.limit_val_batches=1"], "scores are of 4 of 12 images alone"),
        (["trainer.limit_val_batches=0.7"], "scores are of 8 of 12 images alone"),
        (["trainer.overfit_batches=1", "trainer.max_epochs=2"], "scores are of 4 of 12 images alone"),
        (["trainer.limit_val_batches=0"], "not validated: there are no scores"),
        (
            ["trainer.limit_train_batches=0"],
            "not one step was trained: the model is the one that it began with",
        ),
        (["trainer.max_steps=0"], "not one step was trained: the model is the one that it began with"),
    ],
)
def test_a_try(words: list[str], said: str, tmp_path: Path) -> None:
    result = command("train", *CLASSES, *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count(said) == 1, result.stdout
    numbers = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert ("top1" in numbers) == (words != ["trainer.limit_val_batches=0"])
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize("task", ["detection", "semantic_segmentation"])
def test_scores_of_a_try_are_those_of_the_images_seen(task: str, tmp_path: Path) -> None:
    """Evaluated on 4 of 6 images, or on data that has no others."""
    words = [
        *TINY[task],
        "data.num_train=8",
        "trainer.max_steps=2",
        "trainer.limit_val_batches=0",
        "run_dir=run",
    ]
    assert command("train", *words, cwd=tmp_path).returncode == 0
    found = []
    for count, limit in ((6, 1), (4, 1.0)):
        words = ["checkpoint=run", "data.size=96", "data.num_train=8", f"data.num_val={count}", "data.num_test=1",
                 "loader.batch_size=4", f"trainer.limit_test_batches={limit}", "trainer.accelerator=cpu",
                 "precision=32-true", f"run_dir=of{count}"]  # fmt: skip
        result = command("evaluate", *words, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert ("scores are of 4 of 6 images" in result.stdout) == (count == 6)
        found.append(json.loads((tmp_path / f"of{count}" / "metrics.json").read_text()))
    assert repr(found[0]) == repr(found[1])


def test_a_limit_that_leaves_nothing_is_one_sentence(tmp_path: Path) -> None:
    result = command("train", *CLASSES, "trainer.limit_train_batches=0.1", cwd=tmp_path)
    assert result.returncode == 2 and result.stderr.count("\n") == 2
    assert "error: You requested to check 0.1 of the `train_dataloader` but 0.1 * 2 < 1" in result.stderr


def test_the_profiler_prints(tmp_path: Path) -> None:
    result = command("train", *CLASSES, "trainer.profiler=simple", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert checkpoint(tmp_path / "run")["global_step"] == 2


WRONG = {
    "trainer.max_steps=x": "trainer.max_steps='x' must be a whole number",
    "trainer.max_steps=1.5": "trainer.max_steps=1.5 must be a whole number",
    "trainer.devices=0": "trainer.devices=0 must be a number of devices, at least 1",
    "trainer.devices=x": "trainer.devices=x must be a number of devices",
    "trainer.devices=-3": "trainer.devices=-3 must be a number of devices",
    "trainer.devices=[]": "trainer.devices=[] must be a number of devices",
    "trainer.val_check_interval=0": "trainer.val_check_interval=0 must be a number of batches, at least 1",
    "trainer.val_check_interval=1.5": "trainer.val_check_interval=1.5 must be a number of batches",
    "trainer.accumulate_grad_batches=0": "trainer.accumulate_grad_batches=0 must be at least 1",
    "trainer.gradient_clip_val=-1": "trainer.gradient_clip_val=-1 must be at least 0",
    "trainer.gradient_clip_algorithm=x": "trainer.gradient_clip_algorithm=x must be norm or value",
    "trainer.max_time=x": "trainer.max_time=x must be days:hours:minutes:seconds",
    "trainer.log_every_n_steps=0": "trainer.log_every_n_steps=0 must be at least 1",
    "trainer.min_steps=x": "trainer.min_steps='x' must be a whole number or null",
    "trainer.deterministic=x": "trainer.deterministic=x must be true, false or warn",
    "trainer.precision=16-mixed": "unknown setting 'trainer.precision'",
    "trainer.logger=false": "unknown setting 'trainer.logger'",
    "trainer.callbacks=[x]": "unknown setting 'trainer.callbacks'",
    "trainer.enable_checkpointing=false": "unknown setting 'trainer.enable_checkpointing'",
    "trainer.num_sanity_val_steps=2": "unknown setting 'trainer.num_sanity_val_steps'",
    "trainer.default_root_dir=x": "unknown setting 'trainer.default_root_dir'",
    "optimizer.lr=1e-3x": "optimizer.lr='1e-3x' must be a number",
    "optimizer.lr=-1": "optimizer.lr=-1 must be a number of at least 0",
    "optimizer.lr=nan": "optimizer.lr=nan must be a number of at least 0",
    "optimizer.lr=null": "optimizer.lr=None must be a number",
    "optimizer.weight_decay=x": "optimizer.weight_decay='x' must be a number",
    "schedule.warmup=x": "schedule.warmup='x' must be a number",
    "loader.num_workers=x": "loader.num_workers='x' must be a whole number",
    "seed=x": "seed='x' must be a whole number",
    "seed=-1": "seed=-1 must be at least 0",
    "data.num_val=[[]]": "data.num_val=[[]] must be a whole number",
    "data=$(x)": "cannot read the value of data in 'data=$(x)'; a text goes into two kinds of quotes",
    '+x="': "cannot read the value of +x in '+x=\"'; a text goes into two kinds of quotes",
}


@pytest.mark.parametrize("word", WRONG)
def test_a_value_that_means_nothing_is_refused_before_a_folder_is_made(word: str, tmp_path: Path) -> None:
    result = command("train", *CLASSES, word, cwd=tmp_path)
    assert result.returncode == 2
    assert f"error: {WRONG[word]}" in result.stderr, result.stderr
    assert result.stderr.count("\n") == 2
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_null_is_not_set(tmp_path: Path) -> None:
    result = command("predict", "checkpoint=x", "source=null", cwd=tmp_path)
    assert result.returncode == 2
    assert "error: source is not set; give source=…" in result.stderr


@pytest.mark.parametrize("word", ["score_threshold=abc", "tile=x", "batch_size=x", "scales=[a]", "flip=5"])
def test_predictions_with_values_that_mean_nothing(word: str, tmp_path: Path) -> None:
    result = command("predict", "checkpoint=x", "source=x", word, cwd=tmp_path)
    key = word.partition("=")[0]
    assert result.returncode == 2 and f"error: {key}=" in result.stderr and "must be" in result.stderr, (
        result.stderr
    )


OTHER_WRONG = {
    "a model of another task": (
        ["task=semantic_segmentation", "model=mask_rcnn"],
        "mask_rcnn is not a model of semantic_segmentation; its models are semantic_fpn, deeplabv3",
    ),
    "channels that no image has": (
        [*TINY["classification"], "backbone.in_channels=4"],
        "backbone.in_channels=4: images are read, normalised and augmented as RGB, of 3 channels; leave it out",
    ),
    "copy and paste without masks": (
        [*TINY["detection"], "augmentation=copy_paste"],
        "augmentation CopyPaste cuts objects out along their masks, which this task does not read; leave it out, or",
    ),
}


@pytest.mark.parametrize("what", OTHER_WRONG)
def test_what_does_not_go_together_is_refused_before_a_folder_is_made(what: str, tmp_path: Path) -> None:
    words, message = OTHER_WRONG[what]
    result = command("train", *words, "run_dir=run", cwd=tmp_path)
    assert result.returncode == 2
    assert f"error: {message}" in result.stderr, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_in_an_evaluation_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command("train", *CLASSES, "trainer.limit_val_batches=0", cwd=tmp_path).returncode == 0
    handler = signal.getsignal(signal.SIGINT)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Task, "test_step", interrupted)
    words = [
        "checkpoint=run",
        "data=single_digits",
        "data.num_val=4",
        "trainer.accelerator=cpu",
        "run_dir=out",
    ]
    result = command("evaluate", *words, cwd=tmp_path)
    assert result.returncode == 130
    assert result.stderr == "interrupted\n"
    assert signal.getsignal(signal.SIGINT) is handler
