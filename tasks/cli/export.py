"""`vertebra export`: a trained model for other programs."""

from pathlib import Path

from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.output import Found, say_result
from tasks.cli.settings import settings_of
from tasks.cli.terminal import Terminal, prepare
from tasks.export.settings import ExportSettings
from tasks.export.write import export as export_model
from tasks.folders import new_folder


def export(config: DictConfig) -> Found:
    """Writes the model in `config.checkpoint` into the folder `config.output`."""
    settings = settings_of(ExportSettings, config)
    prepare("cpu")
    data = None if config.get("data") is None else data_of(config)
    output = new_folder("export") if config.output is None else Path(config.output)
    exported = export_model(config.checkpoint, output, settings=settings, data=data, reporter=Terminal())
    size = exported.file.stat().st_size
    beside = "" if exported.predict is None else f", and {exported.predict.name}, which runs it without torch"
    say_result(f"{exported.file}: {size / 1e6:.1f} MB{beside}")
    numbers = {name: {"before": before, "after": after} for name, (before, after) in exported.numbers.items()}
    values = {"file": exported.file, "bytes": size, "predict": exported.predict}
    return Found({**values, "checks": exported.checks, "numbers": numbers})
