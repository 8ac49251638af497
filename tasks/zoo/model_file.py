"""The model file: weights and a JSON header in one `.safetensors`, which predicts with no config.

The header is data alone. Architectures come from `registry.MODELS`; a file that names anything
else, or a key that other tools would import, is refused.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from backbones.checks import suggest
from backbones.loading import load_exactly
from tasks.contracts import Model
from tasks.files import write_whole
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import TASKS, build_model, resolved_spec, with_settings

FORMAT_VERSION = 1
METADATA_KEY = "vertebra"  # where the header stands, in a model file's metadata and in a checkpoint


@dataclass
class Header:
    """What a network is and what its numbers mean; plain values throughout."""

    task: str
    """A key of `registry.TASKS`."""
    model: dict[str, Any]
    """The resolved spec that `registry.build_model` takes."""
    class_names: list[str]
    """Name of label k at position k."""
    category_ids: list[int]
    """The data set's own id of label k at position k."""
    preprocessing: dict[str, Any]
    """Arguments of `Preprocessing`."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the last evaluation of these weights, by name."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Where the weights come from: data, steps, seed, versions of packages."""
    format_version: int = FORMAT_VERSION

    def build(self) -> Model:
        """The network with fresh weights, and this header as `.header`."""
        model = build_model(
            self.model,
            num_classes=len(self.class_names),
            preprocessing=Preprocessing(**self.preprocessing),
        )
        model.header = self
        return model


def new_model(
    task: str,
    spec: Mapping[str, Any],
    class_names: Sequence[str],
    category_ids: Iterable[int],
    preprocessing: Preprocessing,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Model:
    """The network that `spec` describes (`registry.build_model`), with its header, which is made here alone.

    Args:
        task: a key of `registry.TASKS`.
        spec: the model's; defaults that it leaves out are written into the header.
        class_names: of label k at position k.
        category_ids: the data set's own id of label k at position k.
        preprocessing: how pixels reach the network.
        provenance: where the weights come from, as plain values.
    """
    model = build_model(spec, num_classes=len(class_names), preprocessing=preprocessing)
    model.header = Header(
        task=task,
        model=resolved_spec(spec, model),
        class_names=list(class_names),
        category_ids=[int(i) for i in category_ids],
        preprocessing=preprocessing.to_dict(),
        provenance=dict(provenance or {}),
    )
    return model


def save_model(path: str | Path, model: Model, header: Header) -> None:
    """Writes the model file at `path`, whole or not at all."""
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {METADATA_KEY: json.dumps(asdict(header))}
    with write_whole(path) as partial:
        # Not save_file, whose files only their owner may read, whatever the umask says.
        partial.write_bytes(save(tensors, metadata=metadata))


def load_model(path: str | Path, settings: Mapping[str, Any] | None = None) -> Model:
    """The network of a model file or checkpoint with its weights, in evaluation mode, header as `.header`.

    `settings` are `registry.PREDICTION_SETTINGS` to use in place of those of the file.
    """
    header, weights = read(path)
    header.model = with_settings(header.model, settings or {})
    model = header.build()
    load_exactly(
        model,
        weights,
        f"{path}: the weights are not those of the model its header describes",
        "write the file again with tools/train.py",
    )
    return model.eval()


def read(path: str | Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and weights of a model file (`.safetensors`) or of a checkpoint (`.ckpt`).

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no such file, is cut short, or its format is not one this version reads.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no model file or checkpoint at {path}; give checkpoint=<a .safetensors or .ckpt file of a run>"
        )
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            if text is None:
                raise ValueError(
                    f"{path} holds tensors but no {METADATA_KEY} header: it is no model file of ours"
                )
            return parse_header(json.loads(text), path), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, json.JSONDecodeError) as error:
        if path.suffix == ".safetensors":
            raise ValueError(f"{path} is no readable model file ({error}); copy or write it again") from None
    return _read_checkpoint(path)


def _read_checkpoint(path: Path) -> tuple[Header, dict[str, Tensor]]:
    contents = load_checkpoint(path)
    if METADATA_KEY not in contents:
        raise ValueError(
            f"{path} is a torch file but no checkpoint of this project (it has no {METADATA_KEY!r} entry); "
            "give one that tools/train.py wrote"
        )
    weights = {
        key.removeprefix("model."): value
        for key, value in contents["state_dict"].items()
        if key.startswith("model.")
    }
    return parse_header(contents[METADATA_KEY], path), weights


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, read as data alone (`weights_only`)."""
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises five kinds, by where the damage is
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"{path} is no checkpoint that can be read as data alone ({reason}); "
            "give a .ckpt or .safetensors file that tools/train.py wrote"
        ) from None
    if not isinstance(contents, dict):
        raise ValueError(
            f"{path} holds a {type(contents).__name__}, no checkpoint; give one of tools/train.py"
        )
    return contents


def parse_header(values: Mapping[str, Any], path: Path) -> Header:
    """Checks a header that came from a file and gives it its type."""
    version = values.get("format_version")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this version of vertebra reads {FORMAT_VERSION}. "
            + ("Install a newer vertebra." if isinstance(version, int) and version > FORMAT_VERSION else "")
        )
    for key in _keys(values):
        if key.startswith("_"):
            raise ValueError(
                f"{path} is refused: its header has the key {key!r}, and a model file names no code"
            )
    if values.get("task") not in TASKS:
        raise ValueError(f"{path} is refused: unknown task {values.get('task')!r}; {suggest('', TASKS)}")
    return Header(**values)


def _keys(value: Any) -> list[str]:
    """Every key of nested dicts and lists."""
    if isinstance(value, Mapping):
        return [*map(str, value), *(key for v in value.values() for key in _keys(v))]
    if isinstance(value, list):
        return [key for v in value for key in _keys(v)]
    return []
