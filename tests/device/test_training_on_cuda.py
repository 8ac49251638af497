"""The real programs on the simulated device: training with validation, averages and checkpoints; prediction with
views and tiles. Nothing has operands on two devices, and waits have bounds.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tasks.harness.guards import LossGuard, NonfiniteLoss
from tasks.harness.task import Task
from tasks.harness.throughput import ThroughputMonitor
from tasks.inference.predictor import Predictor
from tests.device.simulated_cuda import SimulatedCuda
from tests.device.small_models import make_batch, small_model
from tests.device.test_waits import PREDICTION, STEP, header, name_of
from tests.tiny_runs import TINY, tiny_run

MODEL = {
    "classification": "classifier", "detection": "faster_rcnn", "instance_segmentation": "mask_rcnn",
    "semantic_segmentation": "semantic_fpn", "cascade": "faster_rcnn",
}  # fmt: skip
ON_CUDA = ["trainer.accelerator=gpu", "precision=bf16-mixed", "ema=0.5", "trainer.log_every_n_steps=10"]
GUARD = 1  # of a step, for the losses of its forward pass, while the device has its backward pass to do
METRIC = 1  # of a batch
ORIGINAL = {"semantic_fpn": 1}  # class maps of the original images need to know the sizes of these


@pytest.mark.parametrize(
    "task",
    [
        pytest.param(
            task, marks=[] if task in ("classification", "instance_segmentation") else pytest.mark.slow
        )
        for task in TINY
    ],
)
def test_a_training(task: str, cuda: SimulatedCuda, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step from its second on, from the start of a batch to that of the next, and every batch of validation."""
    totals: list[int] = []
    validations: list[int] = []
    start, step = ThroughputMonitor.on_train_batch_start, Task.validation_step

    def started(self: ThroughputMonitor, *arguments: Any) -> None:
        totals.append(cuda.total())
        start(self, *arguments)

    def validated(self: Task, *arguments: Any) -> Any:
        before = cuda.total()
        found = step(self, *arguments)
        validations.append(cuda.total() - before)
        return found

    monkeypatch.setattr(ThroughputMonitor, "on_train_batch_start", started)
    monkeypatch.setattr(Task, "validation_step", validated)
    tiny_run(task, tmp_path / "run", *ON_CUDA, steps=4)
    model = MODEL.get(task, task)
    assert len(totals) == 4 and validations
    steps = np.diff(totals)[1:]
    assert (steps <= STEP[model] + GUARD).all(), f"{steps} waits a step; {cuda}"
    bound = STEP[model] + PREDICTION[model] + ORIGINAL.get(model, 0) + METRIC
    assert validations[-1] <= bound, f"{validations} waits a batch; {cuda}"
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.parametrize("kind", ["classifier", "semantic_fpn", "faster_rcnn", "mask_rcnn", "retinanet"])
@pytest.mark.parametrize("num_images", [2, 8])
def test_predictions_for_pictures(kind: str, num_images: int, cuda: SimulatedCuda) -> None:
    """One wait more than the network's own, for all that it found."""
    predictor = predictor_of(kind)
    pictures = list(np.random.default_rng(0).integers(0, 256, (num_images, 96, 128, 3), np.uint8))
    predictor(pictures[:1])
    cuda.clear()
    assert len(predictor(pictures)) == num_images
    name = name_of(kind)
    assert cuda.total() <= PREDICTION[name] + ORIGINAL.get(name, 0) + 1, cuda


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn", "yolox"])
def test_views(kind: str, cuda: SimulatedCuda) -> None:
    """What each view waits for, and to put them together: sizes, labels, suppression, and the result."""
    totals = []
    for num_images in (2, 8):
        predictor = predictor_of(kind, scales=(0.5, 1.0), flip=True)
        pictures = list(np.random.default_rng(0).integers(0, 256, (num_images, 96, 128, 3), np.uint8))
        predictor(pictures[:1])
        cuda.clear()
        predictor(pictures)
        totals.append(cuda.total())
    assert totals[0] == totals[1] <= 4 * PREDICTION[kind] + 1 + 1 + 2 + 1, cuda


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_tiles(kind: str, cuda: SimulatedCuda) -> None:
    """As many waits as batches of tiles of one size have; merging is the host's work."""
    predictor = predictor_of(kind, tile=64, overlap=0.25)
    picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    predictor(picture)
    cuda.clear()
    predictor(picture)
    assert cuda.total() <= 2 * (PREDICTION[kind] + 1), cuda  # the tiles, and the whole picture


def predictor_of(kind: str, **options: Any) -> Predictor:
    model = small_model(kind)
    model.header = header(kind, model)
    return Predictor(model, device="cuda", precision="bf16-mixed", **options)


@pytest.mark.parametrize(("on_nonfinite", "bound"), [("stop", 1), ("skip", 2)])
def test_the_guard(on_nonfinite: Any, bound: int, cuda: SimulatedCuda) -> None:
    """For the losses; where a step may be left out, for the gradients as well."""
    guard = LossGuard(None, on_nonfinite)
    batch = make_batch(2).to("cuda")
    values = torch.full((3,), 1.0, device="cuda")
    cuda.clear()
    norm = torch.full((), 2.0, device="cuda")
    for step in range(2):
        guard.watch(["a", "b", "c"], values, batch)
        assert cuda.total() == 0, cuda
        assert guard.check(step, lambda batch: {}) and guard.check_norm(step, norm)
        assert cuda.total() == bound, cuda
        cuda.clear()


def test_the_guard_reads_a_bad_norm_before_weights_are_kept(cuda: SimulatedCuda) -> None:
    """With the losses of the next step, or for a checkpoint."""
    batch, values = make_batch(2).to("cuda"), torch.full((1,), 1.0, device="cuda")
    for looks_again in (
        lambda guard: guard.check(6, lambda batch: {}),
        lambda guard: guard.check_last_norm(),
    ):
        guard = LossGuard(None)
        guard.watch(["a"], values, batch)
        assert guard.check(5, lambda batch: {})
        assert guard.check_norm(5, torch.full((), float("nan"), device="cuda"))
        guard.watch(["a"], values, batch)
        with pytest.raises(
            NonfiniteLoss, match=r"a gradient at step 5 is not finite .* from images 0, 1; lower"
        ):
            looks_again(guard)
        guard.check_last_norm()  # said once
