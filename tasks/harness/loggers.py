"""The loggers that a configuration names, set up so that none asks a question or needs a network."""

import netrc
import os

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


def start(logger: Logger) -> Logger:
    """Opens the logger's files now, while its folder is empty: CSVLogger warns about one that is not."""
    _ = logger.experiment  # type: ignore[attr-defined]
    return logger
