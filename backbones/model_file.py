"""The backbone out of a model file or checkpoint of this project, with its weights."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .create import build
from .features import FeatureExtractor

METADATA_KEY = "vertebra"  # where the description stands, in a model file's metadata and in a checkpoint
FORMAT_VERSION = 1  # of the description
PREFIX = "backbone."  # of the extractor's tensors in a model
CHECKPOINT_PREFIX = "model." + PREFIX


def load_backbone(path: str | Path, *, pyramid: bool = True) -> FeatureExtractor:
    """The trained backbone in `path`, a `.safetensors` model file or a `.ckpt` checkpoint, in training mode.

    Args:
        path: the file.
        pyramid: with the feature pyramid it was trained with, if there was one; False for the bare backbone.

    Raises:
        ValueError: no such file, not one of ours, or its weights do not fit its own description.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"there is no file at {path}; give a model file (.safetensors) or a checkpoint (.ckpt)"
        )
    header, weights = _read(path)
    described = header.get("model")
    model: Mapping[str, Any] = cast(Mapping[str, Any], described) if isinstance(described, Mapping) else {}
    if not isinstance(model.get("backbone"), Mapping):
        raise ValueError(f"{path} describes no backbone; it was not written by this project's tools")
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {header.get('format_version')}, and this package reads {FORMAT_VERSION}; "
            "install the version of vertebra that wrote it"
        )
    try:
        extractor = build({"backbone": model["backbone"], "pyramid": model.get("pyramid")})
    except ValueError as error:
        raise ValueError(f"{path} describes a backbone that cannot be built: {error}") from None
    try:
        extractor.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ValueError(
            f"the weights in {path} do not fit the backbone that it describes ({' '.join(lines[1:2]).strip()})"
        ) from None
    if model.get("pyramid") is not None and not pyramid:
        bare = extractor.get_submodule("backbone")
        assert isinstance(bare, FeatureExtractor)
        return bare
    return extractor


def _read(path: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """The description and the extractor's own tensors."""
    if path.suffix == ".safetensors":
        try:
            with cast(Any, safe_open)(path, "pt") as file:
                metadata: Mapping[str, str] = file.metadata() or {}
                text = metadata.get(METADATA_KEY)
                keys: list[str] = [key for key in file.keys() if key.startswith(PREFIX)]  # noqa: SIM118 (no mapping)
                weights: dict[str, Tensor] = {key.removeprefix(PREFIX): file.get_tensor(key) for key in keys}
                header = None if text is None else json.loads(text)
        except (SafetensorError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is no readable model file ({error}); copy or write it again") from None
    else:
        try:
            contents = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises five kinds, by where the damage is
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ValueError(f"{path} is no checkpoint that can be read as data alone ({reason})") from None
        entries: Mapping[str, Any] = cast(Mapping[str, Any], contents) if isinstance(contents, dict) else {}
        state = cast(Mapping[str, Tensor], entries.get("state_dict", {}))
        header = entries.get(METADATA_KEY)
        weights = {
            key.removeprefix(CHECKPOINT_PREFIX): value
            for key, value in state.items()
            if key.startswith(CHECKPOINT_PREFIX)
        }
    if not isinstance(header, Mapping):
        raise ValueError(
            f"{path} is no model file or checkpoint of this project (it has no {METADATA_KEY!r} entry); for "
            "other weights use backbones.create(name, pretrained=path)"
        )
    return cast(Mapping[str, Any], header), weights
