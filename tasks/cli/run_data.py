"""The data of the run that made a model file: what `evaluate checkpoint=F` scores it on where no other is given."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.cli.targets import TARGETS


def data_of_run(file: str, config: Mapping[str, Any] | None, folder: Path) -> dict[str, Any]:
    """The data set of the run in `folder`, with this `config`, that made the model `file`, as a configuration names it;
    without a configuration that of embedded data that the file's task is tried on, if it was trained on such.

    Raises ValueError, or FileNotFoundError where its folder is not there any more, with the setting that gives another.
    """
    if config is None:
        return embedded(file)
    data = dict(config.get("data") or {})
    if data.get("_target_") not in TARGETS:
        raise ValueError(
            f"the run in {folder} was trained on a data set of its own code ({data.get('_target_')}); give data=… to "
            f"score {file} on"
        )
    key = next((key for key in ("root", "file") if isinstance(data.get(key), str)), None)
    if key is not None:
        data[key] = str(find_again(data[key], config.get("run_dir"), folder, file))
    return data


def embedded(file: str) -> dict[str, Any]:
    """See `data_of_run`."""
    from tasks.data import FORMATS
    from tasks.zoo.model_file import read
    from tasks.zoo.task_specs import TASK_SPECS

    header = read(file)[0]
    known = FORMATS[TASK_SPECS[header.task].data].replace(":", ".")
    of = str(header.provenance.get("data", known))
    if of.rpartition(".")[2] != known.rpartition(".")[2]:
        raise ValueError(
            f"the run that made {file} is not beside it, so nothing says where its data is; give data.root=DIR"
        )
    return {"_target_": known}


def find_again(place: str, run_dir: Any, folder: Path, file: str) -> Path:
    """The path of a run's data: as the run has it, or relative to where the run was started, which the place of its
    folder tells."""
    path = Path(place).expanduser()
    if path.exists() or path.is_absolute():
        found = path
    else:
        depth = (
            len(Path(run_dir).parts) if isinstance(run_dir, str) and not Path(run_dir).is_absolute() else 0
        )
        parents = [folder.absolute(), *folder.absolute().parents]
        found = parents[min(depth, len(parents) - 1)] / path
    if not found.exists():
        raise FileNotFoundError(
            f"the data that {file} was trained on, {place}, is not there any more; give the place of it, or other data "
            "of its classes, with data.root=DIR"
        )
    return found


def run_of(file: Path) -> Path:
    """The folder of the run that a model file or checkpoint lies in, or that `file` is."""
    if file.is_dir():
        return file
    return file.parent.parent if file.parent.name == "checkpoints" else file.parent
