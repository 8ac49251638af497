"""The loggers that a configuration names, set up so that none asks a question or needs a network, and what each
is told beside numbers: pictures as its own objects, the configuration, the environment."""

import json
import math
import netrc
import os
import re
import secrets
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from backbones.checks import suggest
from tasks.data.loading.images import one_line
from tasks.harness.metrics_csv import MetricsFile
from tasks.visualization.result import DrawablePrediction

PICTURES = "val/predictions"
WANDB_ID = "wandb_id.txt"
MLFLOW_ID = "mlflow_id.txt"


def csv(folder: str) -> MetricsFile:
    """`metrics.csv` in `folder`."""
    return MetricsFile(folder)


def tensorboard(folder: str) -> Logger:
    """Event files in `folder`."""
    return TensorBoardLogger(folder, name="", version="tensorboard")


def wandb(folder: str, *, project: str = "vertebra", name: str | None = None) -> Logger:
    """Weights & Biases; without a key (`WANDB_API_KEY` or `wandb login`) it writes to `folder` offline.

    A run that resumes goes on as the same run there: `wandb_id.txt` in `folder` has its id.

    Raises:
        ValueError: wandb takes no project of this name.
    """
    import wandb as client

    if not project or len(project) > 128 or set(project) & set("/\\#?%:"):
        raise ValueError(
            f"logger.wandb.project={project!r:.150} cannot be the name of a project: it has 1 to 128 characters and "
            "none of / \\ # ? % :"
        )
    offline = os.environ.get("WANDB_MODE", "" if wandb_key_is_set() else "offline") == "offline"
    settings = client.Settings(console="off")  # log.txt has what is printed
    return WandbLogger(
        name=name,
        save_dir=folder,
        project=project,
        offline=offline,
        log_model=False,
        settings=settings,
        id=wandb_id(Path(folder)),
        resume="allow",
    )


def wandb_id(folder: Path) -> str:
    """The id of the run in `folder`, which is made up when first asked for."""
    path = folder / WANDB_ID
    found = _kept_id(path, "[0-9a-z]{8}")
    if found is None:
        found = secrets.token_hex(4)
        path.write_text(f"{found}\n", encoding="utf-8")
    return found


def _kept_id(path: Path, pattern: str) -> str | None:
    """The id of a run that the file `path` has; None where there is none of this pattern."""
    found = path.read_text(encoding="utf-8", errors="replace")[:80].strip() if path.is_file() else ""
    return found if re.fullmatch(pattern, found) else None


class MLflow(MLFlowLogger):
    """Lightning's, with names that MLflow takes, and the run's id in `mlflow_id.txt` of its folder."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.id_file = folder / MLFLOW_ID
        super().__init__(run_id=_kept_id(self.id_file, "[0-9a-f]{32}"), **options)

    def open(self) -> None:
        """Begins the run, or goes on with it. ValueError where the files of a run in its folder would be written
        elsewhere: the folder has been moved, or somebody has made it so."""
        from mlflow.exceptions import MlflowException

        store = self._tracking_uri
        try:
            where = str(_client(self).get_run(str(self.run_id)).info.artifact_uri)
        except MlflowException as error:
            raise ValueError(
                f"MLflow does not go on with the run in {self.id_file} ({one_line(error)}); delete that file for a "
                "new run there"
            ) from None
        if store.startswith("file:") and not (where.startswith(f"{store}/") and "/../" not in where):
            raise ValueError(
                f"the run in {self.id_file} keeps its files at {where}, outside of {store}; delete that file for a new "
                "run there"
            )
        self.id_file.write_text(f"{self.run_id}\n", encoding="utf-8")

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        super().log_metrics({mlflow_name(name): value for name, value in metrics.items()}, step)


def mlflow_name(name: str) -> str:
    """`name` of characters that MLflow takes. Those of classes go below another name than that of their mean, as
    files of one name cannot lie in each other: `val/AP/cell` is `val/AP_by_class/cell`."""
    return re.sub("[^a-zA-Z0-9_/. -]", "_", re.sub("^([^/]+/[^/]+)/", r"\1_by_class/", name))


def mlflow(folder: str, *, project: str = "vertebra", name: str | None = None) -> Logger:
    """MLflow: the server that `MLFLOW_TRACKING_URI` names, else files in `folder`/mlruns.

    A run that resumes goes on as the same run there. MLflow's own reports of usage are off. Needs the package mlflow,
    or mlflow-skinny.
    """
    # Its own switches, read where it is first imported; files are all that works without a database.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    place = os.environ.get("MLFLOW_TRACKING_URI") or (Path(folder).absolute() / "mlruns").as_uri()
    return MLflow(Path(folder), experiment_name=project, run_name=name, tracking_uri=place)


def wandb_key_is_set() -> bool:
    """Whether wandb could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def _client(logger: Logger) -> Any:
    """What a logger of Lightning's writes with, in the words of its package."""
    return cast(Any, logger).experiment


LOGGERS: dict[str, Callable[..., Logger]] = {
    "csv": csv,
    "tensorboard": tensorboard,
    "wandb": wandb,
    "mlflow": mlflow,
}
"""Functions of a run's folder, by the name that settings give."""


def open_logger(
    logger: str | Callable[[Path], Logger],
    folder: Path,
    *,
    step: int | None = None,
    is_validation_due: bool = False,
) -> Logger:
    """The logger that settings name, its files opened in `folder`, for a run that goes on after `step`, with the
    validation there where that is due."""
    if isinstance(logger, str) and logger not in LOGGERS:
        raise ValueError(f"logger {logger!r} is unknown; {suggest(logger, LOGGERS)}")
    made = LOGGERS[logger](str(folder)) if isinstance(logger, str) else logger(folder)
    if isinstance(made, MLflow):
        made.open()
    elif isinstance(made, MetricsFile):
        made.open(step, is_validation_due=is_validation_due)
    else:
        _client(made)  # opens its files now
    return made


def log_setup(logger: Logger, config: dict[str, Any], environment: dict[str, Any]) -> None:
    """Gives a logger that can keep them the configuration and the environment; for all they are files."""
    if isinstance(logger, TensorBoardLogger):
        for name, value in (("config", config), ("environment", environment)):
            _client(logger).add_text(name, textwrap.indent(json.dumps(value, indent=1), "    "))
    elif isinstance(logger, WandbLogger):
        _client(logger).config.update({**config, "environment": environment}, allow_val_change=True)
    elif isinstance(logger, MLFlowLogger):
        client = _client(logger)
        run = str(logger.run_id)
        for name, value in (("config", config), ("environment", environment)):
            client.log_dict(run, value, f"{name}.json")
        if not client.get_run(run).data.params:  # which cannot be changed once they are set
            logger.log_hyperparams(config)


def log_model(logger: Logger, path: Path, numbers: Mapping[str, float]) -> None:
    """Gives a logger that keeps files the model file at `path`, whose evaluation gave `numbers`."""
    if isinstance(logger, WandbLogger):
        import wandb as client

        run = _client(logger)
        values = {name: value for name, value in numbers.items() if math.isfinite(value)}
        artifact = client.Artifact(f"model-{run.id}", type="model", metadata=values)
        artifact.add_file(str(path))
        run.log_artifact(artifact)
    elif isinstance(logger, MLFlowLogger):
        _client(logger).log_artifact(str(logger.run_id), str(path))


def log_pictures(
    logger: Logger,
    sheet: np.ndarray,
    found: Sequence[tuple[np.ndarray, DrawablePrediction]],
    class_names: Sequence[str],
    *,
    step: int,
) -> None:
    """Gives a logger that can show them the pictures of a validation, at a step of the optimiser, as `val/predictions`.

    TensorBoard and MLflow get the `sheet`, uint8 (H, W, 3), of all pictures drawn; wandb the images uint8 (h, w, 3) as
    they are with what is `found` in them, which it draws itself.
    """
    if isinstance(logger, TensorBoardLogger):
        _client(logger).add_image(PICTURES, sheet, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(
            PICTURES,
            [image for image, _ in found],
            step=step,
            caption=[shown.caption for _, shown in found],
            boxes=[_wandb_boxes(shown, class_names) for _, shown in found],
            masks=[_wandb_masks(shown, class_names) for _, shown in found],
        )
    elif isinstance(logger, MLFlowLogger):
        _client(logger).log_image(str(logger.run_id), sheet, f"{PICTURES}-{step:08d}.png")


def _wandb_boxes(shown: DrawablePrediction, class_names: Sequence[str]) -> dict[str, Any] | None:
    if not len(shown.boxes):
        return None
    data = [
        {
            "position": dict(zip(("minX", "minY", "maxX", "maxY"), map(float, box), strict=True)),
            "domain": "pixel",
            "class_id": int(label),
            "box_caption": f"{class_names[label]} {score:.2f}",
            "scores": {"score": float(score)},
        }
        for box, label, score in zip(shown.boxes, shown.labels, shown.scores, strict=True)
    ]
    return {"predictions": {"box_data": data, "class_labels": dict(enumerate(class_names))}}


def _wandb_masks(shown: DrawablePrediction, class_names: Sequence[str]) -> dict[str, Any] | None:
    if shown.class_map is None:
        return None
    names = {0: "none", **dict(enumerate(class_names, start=1))}
    return {"predictions": {"mask_data": (shown.class_map + 1).astype(np.uint16), "class_labels": names}}
