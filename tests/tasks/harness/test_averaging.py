"""The moving average of the weights: its arithmetic, and who uses it."""

import json
from pathlib import Path

import pytest
import torch

import tasks
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tests.tiny_runs import checkpoint, tiny_run


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return tiny_run(
        "classification", tmp_path_factory.mktemp("ema") / "run", "ema=0.5", "checkpointing.every_steps=1"
    )


def test_average_by_hand(tmp_path: Path, monkeypatch) -> None:
    from tasks.harness.checkpoints import AtomicCheckpointIO

    seen = []
    write = AtomicCheckpointIO.save_checkpoint

    def remember(self, contents, path, storage_options=None) -> None:
        write(self, contents, path, storage_options)
        if Path(path).name == "last.ckpt":
            seen.append(torch.load(path, weights_only=True))

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", remember)
    tiny_run(
        "classification", tmp_path / "run", "ema=0.5", "norm=batch", "checkpointing.every_steps=1", steps=4
    )
    steps = {contents["global_step"]: contents for contents in seen}
    key = "model.head.weight"
    expected = steps[1]["current_model_state"][key]
    torch.testing.assert_close(steps[1]["state_dict"][key], expected)
    for step in (2, 3, 4):
        count = step - 1
        decay = min(0.5, (1 + count) / (10 + count))
        expected = decay * expected + (1 - decay) * steps[step]["current_model_state"][key]
        torch.testing.assert_close(steps[step]["state_dict"][key], expected)
        counts = [v for k, v in steps[step]["state_dict"].items() if k.endswith("num_batches_tracked")]
        assert counts and all(int(value) == step for value in counts)
    assert not torch.equal(steps[4]["state_dict"][key], steps[4]["current_model_state"][key])


def test_model_file_and_numbers_are_of_the_average(run: Path, tmp_path: Path) -> None:
    contents = checkpoint(run)
    model = tasks.load_model(run / "model.safetensors").state_dict()
    assert all(torch.equal(value, contents["state_dict"][f"model.{key}"]) for key, value in model.items())
    assert any(
        not torch.equal(value, contents["current_model_state"][f"model.{key}"])
        for key, value in model.items()
    )
    words = [
        f"checkpoint={run / 'model.safetensors'}",
        "data=single_digits",
        "data.num_val=4",
        "data.num_test=1",
    ]
    out = tmp_path / "out"
    evaluate(compose("evaluate", [*words, "precision=32-true", "trainer.accelerator=cpu", f"run_dir={out}"]))
    trained, again = (json.loads((folder / "metrics.json").read_text()) for folder in (run, out))
    assert again == pytest.approx(trained, nan_ok=True)


def test_best_and_not_last_average_is_kept(tmp_path: Path) -> None:
    """With a rate that ruins the network after the first validation, the file has the weights of that one."""
    folder = tmp_path / "run"
    words = ["ema=0.5", "trainer.val_check_interval=2", "schedule=constant", "optimizer.lr=0.05"]
    tiny_run("classification", folder, *words, steps=8)
    best = checkpoint(folder, "best")
    model = tasks.load_model(folder / "model.safetensors").state_dict()
    assert all(torch.equal(value, best["state_dict"][f"model.{key}"]) for key, value in model.items())
    assert json.loads((folder / "metrics.json").read_text())["top1"] == pytest.approx(
        best["vertebra"]["metrics"]["top1"]
    )


def test_true_is_a_decay(tmp_path: Path) -> None:
    tiny_run("classification", tmp_path / "run", "ema=true", steps=1)
    assert "averaging_state" in checkpoint(tmp_path / "run")
