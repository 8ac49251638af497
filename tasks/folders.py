"""The folder that a command makes for its results: one of its own, however many commands start at once."""

import time
from pathlib import Path


def new_folder(name: str) -> Path:
    """Makes `runs/<name>-<time>`, or with -2, -3 … behind it where another command of the same second has that."""
    stem = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    stem.parent.mkdir(parents=True, exist_ok=True)
    count = 1
    while True:
        folder = stem if count == 1 else stem.with_name(f"{stem.name}-{count}")
        try:
            folder.mkdir()  # which one of all who try does
            return folder
        except FileExistsError:
            count += 1


def check_free(folder: Path, setting: str) -> None:
    """Raises FileExistsError, which names the `setting` that asked for it, where `folder` holds something."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{setting}={folder} is not empty; give another folder, or delete this one")


def claim_folder(folder: Path, setting: str) -> Path:
    """Makes `folder`, or takes it where it is there and empty.

    Raises:
        FileExistsError: it holds something; names the `setting` that asked for it.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        check_free(folder, setting)
    return folder
