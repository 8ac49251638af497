"""The loggers that a configuration names, set up so that none asks a question or needs a network, and what each
is told beside numbers: pictures as its own objects, the configuration, the environment."""

import json
import netrc
import os
import re
import secrets
import warnings
from collections.abc import Callable, Sequence
from csv import DictReader as csv_reader
from pathlib import Path
from typing import Any, cast

import numpy as np
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger

from backbones.checks import suggest
from tasks.visualization.result import DrawablePrediction

PICTURES = "val/predictions"
WANDB_ID = "wandb_id.txt"


def csv(folder: str) -> CSVLogger:
    """`metrics.csv` in `folder`."""
    return CSVLogger(folder, name="", version="")


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
    if path.is_file():
        found = path.read_text(encoding="utf-8", errors="replace")[:80].strip()
        if re.fullmatch("[0-9a-z]{8}", found):
            return found
    made = secrets.token_hex(4)
    path.write_text(f"{made}\n", encoding="utf-8")
    return made


def wandb_key_is_set() -> bool:
    """Whether wandb could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


LOGGERS: dict[str, Callable[..., Logger]] = {"csv": csv, "tensorboard": tensorboard, "wandb": wandb}
"""Functions of a run's folder, by the name that settings give."""


def open_logger(logger: str | Callable[[Path], Logger], folder: Path, *, step: int = 0) -> Logger:
    """The logger that settings name, its files opened in `folder`, for a run that goes on after `step`."""
    if isinstance(logger, str) and logger not in LOGGERS:
        raise ValueError(f"logger {logger!r} is unknown; {suggest(logger, LOGGERS)}")
    made = LOGGERS[logger](str(folder)) if isinstance(logger, str) else logger(folder)
    return start(made, folder, step=step)


def start(logger: Logger, folder: Path, *, step: int = 0) -> Logger:
    """Opens the logger's files in `folder` now, while it is empty: CSVLogger warns about one that is not.

    A run that goes on after `step` keeps the rows of `metrics.csv` up to there.
    """
    rows = _rows(folder / "metrics.csv", step) if isinstance(logger, CSVLogger) and step else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
        _ = logger.experiment  # type: ignore[attr-defined]
    for row in rows:
        logger.log_metrics({k: _number(v) for k, v in row.items() if v and k != "step"}, int(row["step"]))
    if rows:
        logger.save()
    return logger


def log_setup(logger: Logger, config: dict[str, Any], environment: dict[str, Any]) -> None:
    """Gives a logger that can keep them the configuration and the environment; for all they are files."""
    if isinstance(logger, TensorBoardLogger):
        for name, value in (("config", config), ("environment", environment)):
            text = json.dumps(value, indent=1)
            experiment = cast(Any, logger.experiment)  # pyright: ignore[reportUnknownMemberType]
            experiment.add_text(name, "\n".join("    " + line for line in text.splitlines()))
    elif isinstance(logger, WandbLogger):
        experiment = cast(Any, logger.experiment)  # pyright: ignore[reportUnknownMemberType]
        experiment.config.update({**config, "environment": environment}, allow_val_change=True)


def log_pictures(
    logger: Logger,
    sheet: np.ndarray,
    found: Sequence[tuple[np.ndarray, DrawablePrediction]],
    class_names: Sequence[str],
    *,
    step: int,
) -> None:
    """Gives a logger that can show them the pictures of a validation under `val/predictions`.

    Args:
        logger: TensorBoard gets the sheet; wandb the images with boxes and masks that it draws itself.
        sheet: uint8 (H, W, 3), all pictures drawn.
        found: images uint8 (h, w, 3) as they are, and what the model finds in them.
        class_names: K names.
        step: of the optimiser.
    """
    if isinstance(logger, TensorBoardLogger):
        experiment = cast(Any, logger.experiment)  # pyright: ignore[reportUnknownMemberType]
        experiment.add_image(PICTURES, sheet, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(
            PICTURES,
            [image for image, _ in found],
            step=step,
            caption=[shown.caption for _, shown in found],
            boxes=[_wandb_boxes(shown, class_names) for _, shown in found],
            masks=[_wandb_masks(shown, class_names) for _, shown in found],
        )


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


def _number(text: str) -> float:
    """What was logged: a count stays one."""
    return int(text) if text.isdecimal() else float(text)


def _rows(path: Path, last_step: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [row for row in csv_reader(file) if int(row["step"]) < last_step]
