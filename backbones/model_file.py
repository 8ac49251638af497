"""The backbone out of a model file or checkpoint of this project, with its weights."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from .create import build
from .features import FeatureExtractor
from .untrusted import METADATA_KEY, check_fit, check_numbers, find_model, open_stored

FORMAT_VERSION = 1  # of the description
PREFIX = "backbone."  # of the extractor's tensors in a model
CHECKPOINT_PREFIX = "model." + PREFIX


def load_backbone(path: str | Path, *, pyramid: bool = True) -> FeatureExtractor:
    """The trained backbone in `path`, a `.safetensors` model file or a `.ckpt` checkpoint, in training mode.

    Args:
        path: the file, or the folder of a run, which means its model.
        pyramid: with the feature pyramid it was trained with, if there was one; False for the bare backbone.

    Raises:
        ValueError: no such file, not one of ours, or its weights do not fit its own description.
    """
    path = Path(path)
    if not path.is_file() and not path.is_dir():
        raise ValueError(
            f"there is no file at {path}; give a model file (.safetensors) or a checkpoint (.ckpt)"
        )
    stored = open_stored(find_model(path))
    header = stored.header
    if not _is_mapping(header):
        raise ValueError(
            f"{path} is not a model file or checkpoint of this project (it has no {METADATA_KEY!r} entry); for "
            "other weights use backbones.create(name, pretrained=path)"
        )
    model = header.get("model")
    if not _is_mapping(model) or not _is_mapping(model.get("backbone")):
        raise ValueError(f"{path} describes no backbone; it was not written by this project's tools")
    if header.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {header.get('format_version')}, and this package reads {FORMAT_VERSION}; "
            "install the version of vertebra that wrote it"
        )
    check_numbers(model, f"{path} is refused: its header")
    spec = {"backbone": model["backbone"], "pyramid": model.get("pyramid")}
    prefix = CHECKPOINT_PREFIX if stored.is_checkpoint else PREFIX
    shapes = {
        key.removeprefix(prefix): shape for key, shape in stored.shapes.items() if key.startswith(prefix)
    }
    check_fit(lambda: build(spec), shapes, num_bytes=stored.num_bytes, path=path)
    extractor = build(spec)
    weights = stored.weights()
    extractor.load_state_dict(
        {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    )
    if model.get("pyramid") is not None and not pyramid:
        bare = extractor.get_submodule("backbone")
        assert isinstance(bare, FeatureExtractor)
        return bare
    return extractor


def _is_mapping(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a part of a description, whose keys `check_plain` has found to be text, is a mapping."""
    return isinstance(value, Mapping)
