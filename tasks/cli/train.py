"""`vertebra train`: the training that a configuration describes."""

import signal
import sys
from collections.abc import Sequence

from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.nodes import plain
from tasks.cli.output import Found, files_of
from tasks.cli.settings import record_of, settings_of
from tasks.cli.suit import suited_config
from tasks.cli.terminal import Terminal, folder_of_run, prepare
from tasks.harness.settings import TrainSettings
from tasks.harness.train import Run
from tasks.harness.train import train as train_model


def train(config: DictConfig) -> Found:
    """Trains what `config` describes; a run that a signal stopped ends the process as that signal would."""
    run = run_config(config, sys.argv[1:])
    stopped_by = None if run.stopped_by is None else signal.Signals(run.stopped_by)
    return Found(
        {
            "task": config.task.name,
            **files_of(run.folder),
            "model_file": str(run.model_file) if run.model_file.is_file() else None,
            "numbers": run.numbers,
            "intervals": run.intervals,
            "stopped_by": stopped_by and stopped_by.name,
        },
        0 if stopped_by is None else 128 + stopped_by,
    )


def run_config(config: DictConfig, words: Sequence[str] = ()) -> Run:
    """The run itself; `words` are kept in its folder."""
    settings = settings_of(TrainSettings, config)  # says what means nothing before anything is made
    prepare(settings.trainer.device)
    source = data_of(config)
    config, remarks = suited_config(config, source)
    with folder_of_run(config, config.task.name) as folder:
        config.run_dir = str(folder)
        return train_model(
            config.task.name,
            source,
            model=plain(config.model),
            backbone=plain(config.backbone),
            pyramid=plain(config.pyramid),
            settings=settings_of(TrainSettings, config),
            folder=folder,
            reporter=Terminal(),
            record=record_of(config, words),
            remarks=remarks,
        )
