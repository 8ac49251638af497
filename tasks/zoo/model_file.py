"""The model file: weights and a JSON header in one `.safetensors`, which predicts with no config.

The header is data alone. Architectures come from `registry.MODELS`; a file that names anything else, a key that
other tools would import, or weights to be had elsewhere, is refused. `backbones/untrusted.py` says how it is read.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from backbones.checks import check_types, suggest
from backbones.untrusted import (
    METADATA_KEY,
    check_fit,
    check_numbers,
    find_model,
    load_checkpoint,
    open_stored,
)
from tasks.contracts import Model
from tasks.files import write_whole
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import MODELS, TASKS, build_model, resolved_spec, with_settings

__all__ = ["FORMAT_VERSION", "METADATA_KEY", "Header", "load_checkpoint", "load_model", "read", "save_model"]

FORMAT_VERSION = 1


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
            preprocessing=Preprocessing.of(self.preprocessing),
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
    pretrained: bool = False,
) -> Model:
    """The network that `spec` describes (`registry.build_model`), with its header, which is made here alone.

    Args:
        task: a key of `registry.TASKS`.
        spec: the model's; defaults that it leaves out are written into the header.
        class_names: of label k at position k.
        category_ids: the data set's own id of label k at position k.
        preprocessing: how pixels reach the network.
        provenance: where the weights come from, as plain values.
        pretrained: whether `backbone.pretrained` of the spec is obeyed.
    """
    model = build_model(
        spec, num_classes=len(class_names), preprocessing=preprocessing, pretrained=pretrained
    )
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

    `path` may be the folder of a run, which means its model. `settings` are `registry.PREDICTION_SETTINGS` to use
    in place of those of the file.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: it is no such file, is damaged, describes another network than its weights are of, or holds
            weights that are not finite.
    """
    header, weights = read(path)
    if settings:
        header.model = with_settings(header.model, settings)
    model = header.build()
    model.load_state_dict(weights)
    return model.eval()


def read(path: str | Path) -> tuple[Header, dict[str, Tensor]]:
    """Header and weights of a model file (`.safetensors`), a checkpoint (`.ckpt`) or a run's folder.

    The network that the header describes is compared with the weights, and neither built nor filled. Raises as
    `load_model` does.
    """
    path = find_model(Path(path))
    if not path.is_file():
        raise FileNotFoundError(
            f"no model file or checkpoint at {path}; give checkpoint=<a .safetensors or .ckpt file of a run>"
        )
    stored = open_stored(path)
    if stored.header is None and stored.is_checkpoint:
        raise ValueError(
            f"{path} is a torch file but not a checkpoint of this project (it has no {METADATA_KEY!r} entry); "
            "give one that `vertebra train` wrote"
        )
    if stored.header is None:
        raise ValueError(f"{path} holds tensors but no {METADATA_KEY} header: it is not a model file of ours")
    header = parse_header(stored.header, path)
    prefix = "model." if stored.is_checkpoint else ""
    shapes = {
        key.removeprefix(prefix): shape for key, shape in stored.shapes.items() if key.startswith(prefix)
    }
    check_fit(header.build, shapes, num_bytes=stored.num_bytes, path=path)
    weights = stored.weights()
    return header, {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }


def parse_header(values: Any, path: Path) -> Header:
    """Checks a header that came from a file, made of plain values, and gives it its type.

    Raises:
        ValueError: one sentence on the first thing that is wrong.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{path} is refused: its header is a {type(values).__name__}, not keys with values")
    version = values.get("format_version")
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise ValueError(
            f"{path} has format version {version!r:.20}; this version of vertebra reads {FORMAT_VERSION}. "
            + ("Install a newer vertebra." if isinstance(version, int) and version > FORMAT_VERSION else "")
        )
    for key in _keys(values):
        if key.startswith("_"):
            raise ValueError(
                f"{path} is refused: its header has the key {key!r:.60}, and a model file names no code"
            )
    what = f"{path} is refused: its header "
    known = {item.name for item in fields(Header)}
    for names, word in (
        (known - values.keys() - OPTIONAL, "lacks"),
        (values.keys() - known, "has the unknown"),
    ):
        if names:
            raise ValueError(f"{what}{word} {', '.join(sorted(names))[:200]}")
    check_types(what + "says ", Header, values)
    task, model = values["task"], values["model"]
    if task not in TASKS:
        raise ValueError(f"{path} is refused: unknown task {task!r:.60}; {suggest(task, TASKS)}")
    _check_model(what, task, model)
    if not all(isinstance(value, int | float) for value in values.get("metrics", {}).values()):
        raise ValueError(f"{what}has metrics that are not numbers")
    names, ids = values["class_names"], values["category_ids"]
    if not names or len(names) != len(ids):
        raise ValueError(
            f"{what}has {len(names)} class_names and {len(ids)} category_ids; there must be as many of each, at "
            "least one"
        )
    check_numbers(values["preprocessing"], what + "in preprocessing")
    try:
        Preprocessing.of(values["preprocessing"])
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    return Header(**values)


OPTIONAL = {"metrics", "provenance"}


def _check_model(what: str, task: str, model: dict[str, Any]) -> None:
    """Raises ValueError for the description of a network of another task, or one that asks for weights."""
    name = model.get("name")
    if not isinstance(name, str) or name not in MODELS:
        raise ValueError(f"{what}describes an unknown model {name!r:.60}; {suggest(str(name), MODELS)}")
    if f".{task}." not in MODELS[name]:
        raise ValueError(f"{what}describes a {name}, which is not a model of task={task}")
    backbone = model.get("backbone")
    if not isinstance(backbone, dict) or not isinstance(model.get("pyramid"), dict | None):
        raise ValueError(f"{what}describes no backbone, or a pyramid that is not one")
    if backbone.get("pretrained"):
        raise ValueError(
            f"{what}asks for weights from elsewhere (backbone.pretrained={backbone['pretrained']!r:.80}), and a model "
            "file brings its own"
        )
    check_numbers(model, what)


def _keys(value: Any) -> list[str]:
    """Every key of nested dicts and lists."""
    if isinstance(value, Mapping):
        return [*map(str, value), *(key for v in value.values() for key in _keys(v))]
    if isinstance(value, list | tuple):
        return [key for v in value for key in _keys(v)]
    return []
