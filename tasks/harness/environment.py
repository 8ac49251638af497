"""What a run folder records so that the run can be repeated: command, code, packages, machine, data, and a log."""

import dataclasses
import hashlib
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml

from tasks.files import write_text

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
        "packages": dict(installed()),
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


@cache
def installed() -> dict[str, str]:
    """Versions of the installed packages by name, of the first of each on the path; each description is read once."""
    found: dict[str, str] = {}
    for distribution in distributions():
        metadata = distribution.metadata
        if name := metadata["Name"]:
            found.setdefault(name, metadata["Version"])
    return dict(sorted(found.items(), key=lambda item: item[0].lower()))


def fingerprint(annotations: object) -> str:
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
        array = cast(np.ndarray, value)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    elif isinstance(value, list | tuple):
        for item in cast(Sequence[Any], value):
            _digest(item, digest)
    elif isinstance(value, str | bytes | int | float | bool | None):
        digest.update(repr(value).encode())


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Nested plain values as YAML, whole or not at all. What would be read as a number or so is quoted."""
    text = yaml.dump(
        dict(values), Dumper=_Dumper, allow_unicode=True, sort_keys=False, default_flow_style=False
    )
    write_text(path, text)


class _Dumper(yaml.SafeDumper):
    """Quotes strings that YAML 1.2 and Hydra read as numbers though PyYAML does not, such as 1e-3."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None
    try:
        float(text.replace("_", ""))
        style = "'"
    except ValueError:
        pass
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)  # pyright: ignore[reportUnknownMemberType]


_Dumper.add_representer(str, _represent_string)
