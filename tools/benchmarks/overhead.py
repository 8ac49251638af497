"""What surrounds a step: starting the tools, and the Trainer with its callbacks and loggers."""

from __future__ import annotations

import subprocess
import sys
import time
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from tasks.contracts import Batch

from .pairs import make_batch, our_loss
from .timing import Result, in_turns

TOOLS = Path(__file__).parents[1]
HEAVY = "import torch, torchvision, lightning.pytorch, albumentations"


def startup(arguments: Namespace) -> Iterator[Result]:
    """`tools/train.py --help` beside the imports that training needs."""

    def run(*command: str) -> Callable[[], None]:
        return lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True) and None

    seconds, _ = in_turns(
        {"--help": run(str(TOOLS / "train.py"), "--help"), "imports": run("-c", HEAVY)}, arguments.repeats
    )
    yield Result("startup", {}, "", seconds, [("--help", "imports")])


def trainer_overhead(arguments: Namespace) -> Iterator[Result]:
    """Milliseconds a step of `Task` under the Trainer of tools/train.py, with five losses logged, above those of
    a plain loop over the same network and batches; of the main thread's own time, which others on the machine do
    not take."""
    import lightning.pytorch as pl

    from tasks.cli.terminal import prepare

    prepare("cpu")
    warnings.filterwarnings("ignore", message="You defined a `validation_step`")
    pl.seed_everything(0, verbose=False)
    seconds: dict[str, list[float]] = {"plain loop": [], "Trainer": []}
    for _ in range(arguments.repeats):
        seconds["plain loop"].append(_plain_loop(arguments.steps) / arguments.steps)
        seconds["Trainer"].append(_trainer(arguments.steps) / arguments.steps)
    more = [a - b for a, b in zip(seconds["Trainer"], seconds["plain loop"], strict=True)]
    others = {
        "overhead_ms": {
            "median": round(sorted(more)[len(more) // 2] * 1e3, 3),
            "min": round(min(more) * 1e3, 3),
        }
    }
    yield Result("trainer-overhead", {"steps": arguments.steps}, "", seconds, others=others)


class FiveLosses(nn.Module):
    """A network whose step takes next to no time."""

    header = None

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(8, 8)

    def features(self, batch: Batch) -> dict[str, Tensor]:
        return {"p2": self.backbone(batch.boxes.repeat(1, 1, 2))}

    def losses(self, features: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        loss = features["p2"].square().mean()
        return {f"loss_{i}": loss * i for i in range(1, 6)}


def _batches(number: int) -> Any:
    one = make_batch(1, 8, 8, 1, masks=False)
    return torch.utils.data.DataLoader([one] * number, batch_size=None)  # pyright: ignore[reportArgumentType]


def _plain_loop(steps: int) -> float:
    from tasks.harness.optim import build_optimizer, warmup_cosine

    model: Any = FiveLosses()
    optimizer = build_optimizer(model, partial(torch.optim.AdamW, lr=1e-3))
    schedule = warmup_cosine(optimizer, steps)
    batches = _batches(steps + 50)
    began = 0.0
    for index, batch in enumerate(batches):
        if index == 50:
            began = time.thread_time()
        total = our_loss(model, batch)
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        schedule.step()
    return time.thread_time() - began


def _trainer(steps: int) -> float:
    from lightning.pytorch.callbacks import Callback

    from tasks.cli.terminal import Terminal
    from tasks.harness.checkpoints import checkpoints
    from tasks.harness.fit import make_trainer
    from tasks.harness.settings import CheckpointSettings, LoaderSettings, TrainerSettings, TrainSettings
    from tasks.harness.task import Task

    class Bench(Task):
        monitor = "AP"
        build_metric = to_original = draw = report = write_results = lambda *_: None  # type: ignore

        def on_validation_start(self) -> None: ...

        def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None: ...

    class Clock(Callback):
        began = took = 0.0

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if batch_idx == 50:
                self.began = time.thread_time()

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            if trainer.global_step == steps + 50:
                self.took = time.thread_time() - self.began

    with TemporaryDirectory() as folder:
        settings = TrainSettings(
            trainer=TrainerSettings(max_steps=steps + 50, accelerator="cpu"),
            loader=LoaderSettings(batch_size=1),
            precision="32-true",
        )
        say = Terminal().say
        _, last = checkpoints(Path(folder) / "checkpoints", "val/AP", CheckpointSettings(), say=say)
        trainer, _ = make_trainer(settings, Path(folder), [last], Terminal())
        clock = Clock()
        trainer.callbacks.append(clock)  # type: ignore[attr-defined]
        model: Any = FiveLosses()
        task = Bench(model, optimizer=settings.optimizer.factory(), schedule=settings.schedule.factory())
        batches = _batches(steps + 50)
        trainer.limit_val_batches = 0
        trainer.fit(task, batches)
        return clock.took
