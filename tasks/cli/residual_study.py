"""`vertebra residual-study`: the study that a configuration describes."""

from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.output import Found, files_of
from tasks.cli.settings import record_of, settings_of
from tasks.cli.terminal import Terminal, folder_of_run, prepare
from tasks.studies.residual_study import StudySettings, study


def residual_study(config: DictConfig) -> Found:
    """Trains each of `config.networks` that the folder has no results of yet."""
    settings = settings_of(StudySettings, config)
    prepare(settings.trainer.device)
    common = {key: v for key, v in record_of(config, ()).config.items() if key not in ("networks", "run_dir")}
    with folder_of_run(config, "residual-study") as folder:
        results = study(data_of(config), settings, folder, reporter=Terminal(), record=common)
    last = {
        name: {f"{split}_error": result[split][-1]["error"] for split in ("train", "test")}
        | {"seconds": result["seconds"]}
        for name, result in results.items()
    }
    return Found({"networks": last, **files_of(folder)})
