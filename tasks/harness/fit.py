"""`Fit`: one run of Lightning's trainer over a task, with all that watches, saves and averages."""

from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from backbones.spec import title
from backbones.untrusted import first_line
from tasks.data.datamodule import DataModule
from tasks.files import write_json
from tasks.harness import auto
from tasks.harness.callbacks import PredictionPictures
from tasks.harness.checkpoints import AtomicCheckpointIO, StoppedInValidationError, checkpoints
from tasks.harness.ema import MovingAverage
from tasks.harness.environment import environment, write_yaml
from tasks.harness.exact_resume import EXACT_RESUME, ExactResume, FitLoop, has_stopped_early
from tasks.harness.guards import LossGuard, is_out_of_memory, memory_advice
from tasks.harness.loggers import log_setup, open_logger
from tasks.harness.record import Record
from tasks.harness.reporter import Reporter
from tasks.harness.session import Unprofiled, interruptible, is_rank_zero, lightning_precision
from tasks.harness.settings import TrainSettings
from tasks.harness.task import Task
from tasks.harness.throughput import ThroughputMonitor
from tasks.harness.time_ahead import TimeAhead
from tasks.zoo.model_file import load_checkpoint


class Fit:
    """Trains `task` on `data` into `folder`, from `checkpoint` on where there is one."""

    def __init__(
        self,
        task: Task,
        data: DataModule,
        settings: TrainSettings,
        folder: Path,
        reporter: Reporter,
        checkpoint: Path | None,
    ) -> None:
        """Makes the trainer, and gives `task` its optimiser: the rate is known once the number of devices is."""
        self.task, self.data, self.settings, self.folder = task, data, settings, folder
        self.checkpoint = checkpoint
        monitor = f"val/{task.monitor}"
        best, self.last = checkpoints(
            folder / "checkpoints", monitor, settings.checkpointing, say=reporter.say
        )
        self.average = None
        if settings.ema:
            self.average = MovingAverage(*([] if settings.ema is True else [settings.ema]))
        callbacks: list[Callback] = [self.average] if self.average else []
        if settings.early_stopping is not None:
            callbacks.append(
                EarlyStopping(
                    monitor,
                    mode="max",
                    patience=settings.early_stopping,
                    check_on_train_epoch_end=False,  # a run that resumes behind a validation has no numbers there
                )
            )
        state = load_checkpoint(checkpoint) if checkpoint is not None else {}
        self.step: int | None = state.get("global_step")
        """Where a run goes on; None for a new one."""
        callbacks += [best, self.last]
        self.trainer, remarks = make_trainer(
            settings,
            folder,
            callbacks,
            reporter,
            step=self.step,
            is_validation_due=state.get(EXACT_RESUME, {}).get("validation_due") is not None,
            has_static_graph=task.model.has_static_graph,
        )
        self.say = reporter.say
        counts = (data.batch_size, self.trainer.world_size, self.trainer.accumulate_grad_batches)
        optimizer, self.remarks = auto.with_rate(settings.optimizer, settings.reference_batch_size, *counts)
        self.remarks += remarks
        """What was chosen, in words."""
        task.optimizer = optimizer.factory()
        task.guard = LossGuard(folder, settings.on_nonfinite, reporter.say)

    def summary(self) -> str:
        """What is trained on what, in one sentence."""
        task, data, trainer = self.task, self.data, self.trainer
        millions = sum(p.numel() for p in task.model.parameters()) / 1e6
        return (
            f"{task.header.task}: {task.header.model['name']} on {title(task.header.model['backbone'])}, "
            f"{millions:.1f} M parameters; {len(data.class_names)} classes, {len(data.split('train'))} images to "
            f"train, {len(data.split('val'))} to validate; {trainer.precision} on {trainer.accelerator.name()}; into "
            f"{self.folder}"
        )

    def write_setup(self, record: Record) -> None:
        """Leaves in the folder, and with the loggers, all that is needed to repeat the run."""
        if not is_rank_zero():
            return
        write_yaml(self.folder / "config.yaml", record.config)
        splits = {name: self.data.split(name) for name in ("train", "val")}
        around = environment(list(record.overrides), splits)
        write_json(self.folder / "environment.json", around)
        for logger in self.trainer.loggers:
            log_setup(logger, dict(record.config), around)

    def run(self) -> int | None:
        """Trains, and leaves the task with its best validated weights and their numbers; the signal that ended it
        before, None without one."""
        try:
            with interruptible(self.trainer):
                self.trainer.fit(
                    self.task, datamodule=self.data, ckpt_path=self.checkpoint, weights_only=True
                )
        except StoppedInValidationError:
            return self.last.stopped_by
        except Exception as error:
            exact = next(c for c in self.trainer.callbacks if isinstance(c, ExactResume))  # type: ignore[attr-defined]
            if self.checkpoint is not None and not exact.is_accepted and not isinstance(error, OSError):
                raise ValueError(f"cannot resume from {self.checkpoint}: {first_line(error)}") from error
            if not is_out_of_memory(error):
                raise
            stages = self.task.header.model["backbone"].get("checkpoint_stages", False)
            advice = memory_advice(
                self.settings,
                str(self.trainer.strategy.root_device),
                batch_size=self.data.batch_size,
                checkpoints_stages=None if stages is False else bool(stages),
            )
            raise ValueError(advice) from error
        if self.step is not None and self.step == self.trainer.global_step and self.last.stopped_by is None:
            why = (
                "early stopping ended the run"
                if has_stopped_early(self.trainer)
                else "the run has had all its steps"
            )
            self.say(f"nothing was left to train: {why} at step {self.step}")
        if self.last.stopped_by is None:
            if self.average is not None:
                self.average.finish(self.task)
            self._use_best()
        return self.last.stopped_by

    def _use_best(self) -> None:
        trainer = self.trainer
        checkpoint = trainer.checkpoint_callback
        assert isinstance(checkpoint, ModelCheckpoint)
        path = str(checkpoint.best_model_path)  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        best = load_checkpoint(Path(path)) if path else None
        if best and best["global_step"] != trainer.global_step:
            self.task.load_state_dict(best["state_dict"])
        elif best and self.task.numbers:
            return  # validated at the last step, and nothing was better
        loggers = trainer.loggers
        if best and best["global_step"] == trainer.global_step:
            trainer.loggers = []  # which have these numbers, from before the run was killed
        with interruptible(trainer):
            trainer.validate(self.task, datamodule=self.data, verbose=False)
        trainer.loggers = loggers


def make_trainer(
    settings: TrainSettings,
    folder: Path,
    callbacks: list[Callback],
    reporter: Reporter,
    *,
    step: int | None = None,
    is_validation_due: bool = False,
    has_static_graph: bool = False,
) -> tuple[pl.Trainer, list[str]]:
    """The trainer of a run in `folder`, with `callbacks` behind those that every run has, and what was changed of its
    settings, in words. `step` is where a run goes on, with a validation where that is due; `has_static_graph` is the
    model's."""
    options, remarks = auto.with_own_statistics(settings.trainer)
    keywords = options.keywords()
    keywords["profiler"] = keywords["profiler"] or Unprofiled()
    if keywords["strategy"] == "ddp":
        keywords["strategy"] = DDPStrategy(
            gradient_as_bucket_view=True,  # gradients are not held twice
            static_graph=has_static_graph and options.accumulate_grad_batches == 1,
        )
    trainer = pl.Trainer(
        **keywords,
        precision=lightning_precision(settings.precision, options),  # type: ignore[arg-type]
        logger=[
            open_logger(logger, folder, step=step, is_validation_due=is_validation_due)
            for logger in settings.loggers
        ],
        callbacks=[
            *reporter.callbacks(options),
            monitor := ThroughputMonitor(reporter.say),
            TimeAhead(reporter.say),
            PredictionPictures(folder),
            ExactResume(),
            *callbacks,
        ],
        plugins=[AtomicCheckpointIO()],
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module's samplers show every image exactly once
        default_root_dir=str(folder),
    )
    trainer.fit_loop = FitLoop.of(trainer)
    monitor.num_workers, more = auto.workers(
        settings.loader, trainer.strategy.root_device, trainer.num_devices
    )
    return trainer, remarks + more
