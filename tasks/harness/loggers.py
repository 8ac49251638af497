"""The loggers that a configuration names, set up so that none asks a question or needs a network."""

import netrc
import os
import warnings
from csv import DictReader as csv_reader
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger


def csv(folder: str) -> CSVLogger:
    """`metrics.csv` in `folder`."""
    return CSVLogger(folder, name="", version="")


def tensorboard(folder: str) -> Logger:
    """Event files in `folder`."""
    from lightning.pytorch.loggers import TensorBoardLogger

    return TensorBoardLogger(folder, name="", version="tensorboard")


def wandb(folder: str, *, project: str = "vertebra", name: str | None = None) -> Logger:
    """Weights & Biases; without a key (`WANDB_API_KEY` or `wandb login`) it writes to `folder` offline."""
    from lightning.pytorch.loggers import WandbLogger

    offline = os.environ.get("WANDB_MODE", "" if wandb_key_is_set() else "offline") == "offline"
    return WandbLogger(name=name, save_dir=folder, project=project, offline=offline, log_model=False)


def wandb_key_is_set() -> bool:
    """Whether wandb could log in without asking."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return netrc.netrc().authenticators("api.wandb.ai") is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def start(logger: Logger, folder: Path, *, step: int = 0) -> Logger:
    """Opens the logger's files in `folder` now, while it is empty: CSVLogger warns about one that is not.

    A run that goes on after `step` keeps the rows of `metrics.csv` up to there.
    """
    rows = _rows(folder / "metrics.csv", step) if isinstance(logger, CSVLogger) and step else []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
        _ = logger.experiment  # type: ignore[attr-defined]
    for row in rows:
        logger.log_metrics({k: float(v) for k, v in row.items() if v and k != "step"}, int(row["step"]))
    if rows:
        logger.save()
    return logger


def _rows(path: Path, last_step: int) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [row for row in csv_reader(file) if int(row["step"]) < last_step]
