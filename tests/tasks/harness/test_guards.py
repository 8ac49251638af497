"""What stops a training that goes wrong: losses that are no numbers, memory, and what is said of the pace."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.data.formats.digits import DigitsData
from tasks.data.loading.collate import collate
from tasks.detection.faster_rcnn import FasterRCNN
from tasks.harness.guards import LossGuard, NonfiniteLoss, describe_image, is_out_of_memory, memory_advice
from tasks.harness.settings import TrainSettings
from tasks.harness.throughput import GIB, pace_line
from tasks.preprocessing import Preprocessing
from tests.tiny_runs import TINY, checkpoint, tiny_run


@pytest.fixture
def planted(monkeypatch) -> int:
    """The id of an image whose box loss is nan."""
    image_id = int(
        DigitsData(num_train=40, num_val=4, num_test=1, size=96).split("train").annotations.image_ids[3]
    )
    compute = FasterRCNN.losses

    def spoilt(self, features, batch):
        losses = compute(self, features, batch)
        if (batch.image_ids == image_id).any() and (torch.is_grad_enabled() or len(batch) == 1):
            losses["loss_box"] = losses["loss_box"] * math.nan
        return losses

    monkeypatch.setattr(FasterRCNN, "losses", spoilt)
    return image_id


def test_a_planted_nan_names_its_image_and_keeps_the_checkpoint(planted: int, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(NonfiniteLoss) as caught:
        tiny_run("detection", folder, "checkpointing.every_steps=1", "seed=1", steps=20)
    message = str(caught.value)
    assert f"from image {planted} (boxes [" in message
    assert message.count("image ") == 1
    assert "loss_box = nan" in message and "loss_class = nan" not in message
    assert "on_nonfinite=skip" in message
    (saved,) = folder.glob("nonfinite-step-*.pt")
    assert str(saved) in message
    contents = torch.load(saved, weights_only=True)
    assert planted in contents["batch"]["image_ids"].tolist()
    assert math.isnan(contents["losses"]["loss_box"])
    last = folder / "checkpoints" / "last.ckpt"
    if last.exists():  # not where the first batch was the bad one
        weights = checkpoint(folder)["state_dict"].values()
        assert all(value.isfinite().all() for value in weights if value.is_floating_point())


def test_skipped_steps_change_nothing(planted: int, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "run"
    tiny_run("detection", folder, "on_nonfinite=skip", steps=20)  # two epochs: the image comes twice
    printed = capsys.readouterr().out
    assert printed.count("step skipped: the loss at step") == 2
    assert f"from image {planted} " in printed
    weights = checkpoint(folder)["state_dict"].values()
    assert all(value.isfinite().all() for value in weights if value.is_floating_point())


@pytest.fixture
def bad_gradient(monkeypatch) -> None:
    """The third step has finite losses and a gradient that is none."""
    compute, calls = FasterRCNN.losses, []

    def spoilt(self, features, batch):
        losses = compute(self, features, batch)
        if torch.is_grad_enabled():
            calls.append(1)
            if len(calls) == 3:
                zero = next(self.parameters()).sum() * 0
                losses["loss_box"] = (
                    losses["loss_box"] + zero.sqrt()
                )  # whose slope is infinite: 0 times that is none
        return losses

    monkeypatch.setattr(FasterRCNN, "losses", spoilt)


def test_a_gradient_that_is_no_number_stops_before_the_weights_take_it(
    bad_gradient: None, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(
        NonfiniteLoss, match=r"a gradient at step 2 is not finite \(their norm is nan\) though the lo"
    ):
        tiny_run("detection", folder, "checkpointing.every_steps=1", steps=6)
    saved = checkpoint(folder)
    assert saved["global_step"] == 2
    assert all(value.isfinite().all() for value in saved["state_dict"].values() if value.is_floating_point())


def test_a_gradient_that_is_no_number_is_skipped(bad_gradient: None, tmp_path: Path, capsys) -> None:
    tiny_run("detection", tmp_path / "run", "on_nonfinite=skip", steps=6)
    assert capsys.readouterr().out.count("step 2 skipped: a gradient is not finite") == 1
    weights = checkpoint(tmp_path / "run")["state_dict"].values()
    assert all(value.isfinite().all() for value in weights if value.is_floating_point())


def test_boxes_that_are_no_numbers_stop_before_the_network(tmp_path: Path, monkeypatch) -> None:
    source = DigitsData(num_train=40, num_val=4, num_test=1, size=96)
    kind = type(source.split("train").annotations)
    image_id = int(source.split("train").annotations.image_ids[3])
    read = kind.target

    def spoilt(self, index: int):
        target = read(self, index)
        if len(self) == 40 and target.image_id == image_id:
            target.boxes[0] = np.nan
        return target

    monkeypatch.setattr(kind, "target", spoilt)
    with pytest.raises(NonfiniteLoss, match=rf"image {image_id} \(boxes \[nan, .*mend or remove"):
        tiny_run("detection", tmp_path / "run", steps=20)


def small_batch():
    split = DigitsData(num_train=3, size=64).split("train")
    samples = [(split.image(i), split.annotations.target(i)) for i in range(3)]
    return collate(samples, preprocessing=Preprocessing(short_side=None))


def test_guard_by_hand(tmp_path: Path, capsys) -> None:
    batch = small_batch()
    bad = int(batch.image_ids[1])

    def losses_of(part):
        return {"a": torch.tensor(math.inf if bad in part.image_ids.tolist() else 1.0)}

    guard = LossGuard(tmp_path)
    guard.watch(["a", "b"], torch.tensor([1.0, 2.0]), batch)
    assert guard.check(0, losses_of)
    assert guard.check(1, losses_of)  # nothing was watched
    guard.watch(["a", "b"], torch.tensor([math.inf, 2.0]), batch)
    with pytest.raises(NonfiniteLoss, match=rf"\(a = inf, b = 2\), from image {bad} .*look at these images"):
        guard.check(2, losses_of)
    guard.watch(["a"], torch.tensor([math.nan]), batch)
    with pytest.raises(NonfiniteLoss, match="from all 3 images of the batch: .*lower optimizer.lr"):
        guard.check(3, lambda part: {"a": torch.tensor(math.nan)})
    guard.watch(["a"], torch.tensor([1.0]), batch)
    assert guard.check(4, losses_of) and guard.check_norm(4, torch.tensor(3.0))
    images = ", ".join(map(str, batch.image_ids.tolist()))
    with pytest.raises(
        NonfiniteLoss, match=rf"a gradient at step 4 is not finite .*is nan\).* {images}; lower"
    ):
        guard.check_norm(4, torch.tensor(math.nan))

    said: list[str] = []
    skips = LossGuard(tmp_path / "nowhere", "skip", said.append)
    skips.folder = None
    skips.watch(["a"], torch.tensor([1.0]), batch)
    assert skips.check(4, losses_of)
    assert not skips.check_norm(4, torch.tensor(math.inf))
    assert "step 4 skipped: a gradient is not finite" in said[0]
    assert skips.check(5, losses_of) and skips.check_norm(5, torch.tensor(2.0))


def test_images_are_described() -> None:
    batch = small_batch()
    text = describe_image(batch, 0)
    assert text.startswith(f"image {int(batch.image_ids[0])} (boxes [")
    batch.labels[0] = -1
    assert describe_image(batch, 0) == f"image {int(batch.image_ids[0])}"


def test_one_image_of_a_batch() -> None:
    batch = small_batch()
    one = batch.select(2)
    assert len(one) == 1 and int(one.image_ids[0]) == int(batch.image_ids[2])
    assert torch.equal(one.boxes[0], batch.boxes[2]) and torch.equal(one.images[0], batch.images[2])


def test_out_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch) -> None:
    def full(self, features, batch):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(FasterRCNN, "losses", full)
    with pytest.raises(ValueError, match="not enough memory for batches of 4; lower .*loader.batch_size=2 with "
                       "trainer.accumulate_grad_batches=2 .*backbone.checkpoint_stages"):  # fmt: skip
        train(compose("train", [*TINY["detection"], "trainer.max_steps=2", f"run_dir={tmp_path / 'run'}"]))


def test_advice_leaves_out_what_is_done_already() -> None:
    text = memory_advice(TrainSettings(), "cuda:0", batch_size=1, checkpoints_stages=True)
    assert text == (
        "cuda:0 has not enough memory for batches of 1; lower what it holds: a smaller preprocessing.short_side and "
        "max_size than 800"
    )


def test_kinds_of_errors() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("x")) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")
    )
    assert not is_out_of_memory(RuntimeError("shape mismatch")) and not is_out_of_memory(ValueError("memory"))


def test_pace_says_what_is_left_unused() -> None:
    line = pace_line(3, 12.34, 0.41, int(1.5 * GIB), None, num_workers=0)
    assert line == (
        "epoch 3: 12.3 images/s, 41% of the time waiting for data, 1.5 GiB of memory; more loader.num_workers "
        "(now 0) or smaller images on disk would shorten it"
    )
    line = pace_line(0, 500, 0.05, 10 * GIB, 80 * GIB, num_workers=4)
    assert line == (
        "epoch 0: 500 images/s, 5% of the time waiting for data, 10.0 of 80 GiB of GPU memory; a larger "
        "loader.batch_size would fit (auto finds it)"
    )
    assert "larger" not in pace_line(0, 500, 0.05, 70 * GIB, 80 * GIB, num_workers=4)
