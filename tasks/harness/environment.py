"""What a run folder records so that the run can be repeated: command, code, packages, machine, data, and a log."""

import contextlib
import dataclasses
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import traceback
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]


def environment(overrides: list[str], splits: dict[str, Any]) -> dict[str, Any]:
    """Everything but the configuration, as plain values; `splits` are those of the data, by name."""
    return {
        "command": command(overrides),
        "overrides": overrides,
        "folder": os.getcwd(),
        "git": git_state(ROOT),
        "python": platform.python_version(),
        "system": platform.platform(),
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else platform.processor() or "cpu",
        "packages": {d.metadata["Name"]: d.version for d in sorted_distributions()},
        "data": {
            name: {"images": len(split), "fingerprint": fingerprint(split.annotations)}
            for name, split in splits.items()
        },
    }


def command(overrides: list[str]) -> str:
    """The words that start this run again, with the settings given to it."""
    program = [sys.executable, os.path.abspath(sys.argv[0])] if sys.argv[0].endswith(".py") else sys.argv[:1]
    return shlex.join([*program, *overrides])


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, and whether files differ from it; None where there is no repository or no git."""

    def git(*words: str) -> str:
        return subprocess.run(
            ["git", "-C", str(folder), *words], capture_output=True, text=True, check=True, timeout=20
        ).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder:
            return None  # installed inside of somebody else's repository
        return {"commit": git("rev-parse", "HEAD"), "changed": git("status", "--porcelain").splitlines()}
    except (OSError, subprocess.SubprocessError):
        return None


def sorted_distributions() -> list[Any]:
    """The installed packages by name, the first of each on the path."""
    found: dict[str, Any] = {}
    for distribution in distributions():
        found.setdefault(distribution.metadata["Name"] or "", distribution)
    return [found[name] for name in sorted(found, key=str.lower) if name]


def fingerprint(annotations: Any) -> str:
    """SHA-256 of a split's annotations: names, ids, classes, boxes and masks as they were read. Pixels are left
    out: reading them all would take longer than many a training."""
    digest = hashlib.sha256()
    _digest(annotations, digest)
    return digest.hexdigest()[:16]


def _digest(value: Any, digest: Any) -> None:
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            digest.update(field.name.encode())
            _digest(getattr(value, field.name), digest)
    elif isinstance(value, np.ndarray):
        digest.update(f"{value.dtype}{value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, list | tuple):
        for item in value:
            _digest(item, digest)
    elif isinstance(value, str | bytes | int | float | bool | None):
        digest.update(repr(value).encode())


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Everything printed inside goes into `path` as well, behind what is there."""
    with (
        open(path, "a", encoding="utf-8") as file,
        contextlib.redirect_stdout(_Tee(sys.stdout, file)),  # type: ignore[type-var]
        contextlib.redirect_stderr(_Tee(sys.stderr, file)),  # type: ignore[type-var]
    ):
        try:
            yield
        except Exception:
            file.write(traceback.format_exc())
            raise


class _Tee:
    """A stream that a file keeps a copy of, without the lines that a terminal redraws."""

    def __init__(self, stream: TextIO, file: TextIO) -> None:
        self._stream = stream
        self._file = file

    def write(self, text: str) -> int:
        if not self._file.closed and "\x1b" not in text and "\r" not in text:
            self._file.write(text)
            self._file.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
