"""Files from elsewhere: read as data alone, within limits, and compared before anything is built or allocated.

A model file or checkpoint is opened in three steps. `open_stored` reads its description and the names and shapes of
its tensors. `check_fit` builds the described network on the `meta` device, where a tensor has a shape and no memory,
and compares. Only then does `StoredModel.weights` read the tensors. Neither step looks at an address or at another
file that the description names.
"""

import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeGuard, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

METADATA_KEY = "vertebra"  # where the description stands, in a model file's metadata and in a checkpoint
COMPILED = "_orig_mod."  # what torch.compile puts into the names of a module that it wraps

MAX_DEPTH = 20
"""Lists and dicts inside each other in a description."""
MAX_VALUES = 200_000
"""Values of a description; one of ImageNet-21k's classes has about 50,000."""
MAX_TEXT = 16 << 20
"""Bytes of a description as JSON."""
MAX_TENSORS = 10_000
"""Tensors of a model; the largest networks of timm have about 3,000."""
MAX_NUMBER = 2**31 - 1
"""Magnitude of a whole number in a description."""
MAX_UNSAVED = 256 << 20
"""Bytes of buffers that a network computes when it is built and that no file holds."""
WIDENING = 4
"""Bytes in memory for each byte in a file: 8-bit floats become float32."""


@dataclass(frozen=True)
class StoredModel:
    """A model file or checkpoint whose description has been read, and whose weights have not."""

    path: Path
    header: Any
    """The description, checked with `check_plain`; None where the file has none."""
    shapes: Mapping[str, tuple[int, ...]]
    """By the name of the tensor, without what torch.compile adds to it."""
    num_bytes: int
    """Of the file."""
    is_checkpoint: bool
    read: Callable[[], dict[str, Tensor]]

    def weights(self) -> dict[str, Tensor]:
        """The tensors by name. ValueError where some of their values are not finite."""
        tensors = {key.replace(COMPILED, ""): value for key, value in self.read().items()}
        check_finite(tensors, self.path)
        return tensors


def open_stored(path: Path) -> StoredModel:
    """The description, names and shapes in `path`, a `.safetensors` model file or a checkpoint.

    Raises:
        ValueError: it is neither, is damaged, or its description is not made of plain values of moderate size.
    """
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if not is_archive(path):
        try:
            return _open_safetensors(path)
        except ValueError:
            pass  # the checkpoint's error says what else it could have been
    contents = load_checkpoint(path)
    tensors = {}
    if METADATA_KEY in contents:
        check_plain(contents[METADATA_KEY], f"{path} is refused: its header")
        tensors = check_tensors(contents.get("state_dict"), path)
    shapes = {key: tuple(value.shape) for key, value in tensors.items()}
    return StoredModel(
        path,
        contents.get(METADATA_KEY),
        _uncompiled(shapes, path),
        path.stat().st_size,
        is_checkpoint=True,
        read=lambda: tensors,
    )


class _Slice(Protocol):
    def get_shape(self) -> Iterable[int]: ...


class _SafetensorsFile(Protocol):
    """An open file as safetensors documents it; the package's own annotations give no types."""

    def __enter__(self) -> Self: ...
    def __exit__(self, *error: object) -> None: ...
    def metadata(self) -> Mapping[str, str] | None: ...
    def keys(self) -> Iterable[str]: ...
    def get_slice(self, name: str) -> _Slice: ...
    def get_tensor(self, name: str) -> Tensor: ...


def _open_file(path: Path) -> _SafetensorsFile:
    return cast(_SafetensorsFile, safe_open(path, "pt"))


def _open_safetensors(path: Path) -> StoredModel:
    try:
        with _open_file(path) as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
            keys = list(file.keys())
            _check_count(len(keys), path)
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in keys}
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ValueError(f"{path} is not a readable model file ({error}); copy or write it again") from None

    def read() -> dict[str, Tensor]:
        try:
            with _open_file(path) as file:
                return check_tensors({key: file.get_tensor(key) for key in keys}, path)
        except (SafetensorError, OSError, RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(f"{path} holds tensors that cannot be read ({first_line(error)})") from None

    header = None if text is None else parse_json(text, path)
    return StoredModel(
        path, header, _uncompiled(shapes, path), path.stat().st_size, is_checkpoint=False, read=read
    )


def _uncompiled(shapes: Mapping[str, tuple[int, ...]], path: Path) -> dict[str, tuple[int, ...]]:
    renamed = {key.replace(COMPILED, ""): shape for key, shape in shapes.items()}
    if len(renamed) != len(shapes):
        raise ValueError(
            f"{path} is refused: it holds the same tensors with and without {COMPILED} in their names"
        )
    return renamed


def is_archive(path: Path) -> bool:
    """Whether the file begins as what `torch.save` writes today."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def load_data(path: Path) -> Any:
    """What `torch.save` wrote to `path`, on the CPU and as data alone: no code of the file runs.

    Raises:
        ValueError: it is damaged, holds more than data, or would unfold to more than its own size.
    """
    try:
        if is_archive(path):
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds, by where the damage is
        if "weights_only" in str(error):  # torch's advice would run the file's code
            raise ValueError("it is damaged, or holds more than plain data") from None
        raise ValueError(first_line(error)) from None


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The contents of a checkpoint, read as data alone. ValueError where it is none."""
    try:
        contents = load_data(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a checkpoint that can be read as data alone ({error}); give a .ckpt or .safetensors file "
            "that `vertebra train` wrote"
        ) from None
    if not isinstance(contents, dict):
        raise ValueError(
            f"{path} holds a {type(contents).__name__}, not a checkpoint; give one of `vertebra train`"
        )
    return cast(dict[str, Any], contents)


def _check_archive(path: Path) -> None:
    """ValueError for an archive whose members unfold: torch writes none, and would read them."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise ValueError("it is compressed or encrypted, which torch.save never does")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its members claim to be larger than the file")


_DTYPES = {
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool,
}  # fmt: skip


def check_tensors(state: Any, path: Path) -> dict[str, Tensor]:
    """`state` if it holds plain tensors by name, no larger than a file of this size can hold.

    Raises:
        ValueError: it does not, as in a file where few numbers are spread over a tensor of any size.
    """
    if not _holds_tensors(state):
        raise ValueError(f"{path} is refused: its state_dict does not hold tensors by name")
    _check_count(len(state), path)
    for key, value in state.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_nested or value.is_meta:
            raise ValueError(f"{path} is refused: its tensor {key} is not a dense one")
        if value.dtype not in _DTYPES:
            raise ValueError(
                f"{path} is refused: its tensor {key} holds {value.dtype}, which no network here has"
            )
    total = _num_bytes(state.values())
    if total > WIDENING * path.stat().st_size:
        raise ValueError(
            f"{path} is refused: its tensors would take {total / 1e6:.0f} MB, more than the file can hold"
        )
    return {key: value.detach() for key, value in state.items()}


def _holds_tensors(state: object) -> TypeGuard[Mapping[str, Tensor]]:
    return isinstance(state, Mapping) and all(
        isinstance(key, str) and isinstance(value, Tensor)
        for key, value in cast(Mapping[Any, Any], state).items()
    )


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _check_count(count: int, path: Path) -> None:
    if count > MAX_TENSORS:
        raise ValueError(f"{path} is refused: it holds {count} tensors, and at most {MAX_TENSORS} are read")


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """ValueError for weights that are not numbers, with which a network finds nothing and says nothing."""
    bad = [
        key
        for key, value in tensors.items()
        if value.is_floating_point() and not (value.float() if value.element_size() == 1 else value).isfinite().all()
    ]  # fmt: skip
    if bad:
        raise ValueError(
            f"{path} holds weights that are not finite, in {len(bad)} of its {len(tensors)} tensors (the first: "
            f"{bad[0]}): the training that wrote it had diverged, or the file is damaged; take an earlier checkpoint"
        )


def parse_json(text: str, path: Path) -> Any:
    """The description that `text` is. ValueError where it is not JSON, or not plain values of moderate size."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"{path} is refused: its header has {len(text) / 1e6:.0f} MB")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(f"{path} is refused: its header is nested too deeply") from None
    except ValueError as error:  # also a number of more digits than Python reads
        raise ValueError(
            f"{path} is not a readable model file (its header is not JSON: {first_line(error)}); copy or write it again"
        ) from None
    check_plain(value, f"{path} is refused: its header")
    return value


def check_plain(value: Any, what: str) -> None:
    """ValueError unless `value` is made of dicts with text for keys, lists, text, numbers, booleans and None.

    The walk ends at `MAX_DEPTH` and `MAX_VALUES`: a pickle may hold one list twice in the next, forty levels deep,
    or a list that holds itself.
    """
    count = 0
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        count += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"{what} is nested too deeply")
        if count > MAX_VALUES or len(waiting) > MAX_VALUES:
            raise ValueError(f"{what} holds more than {MAX_VALUES} values")
        if type(item) is dict:
            entries = cast(dict[Any, Any], item)
            for key in entries:
                if type(key) is not str:
                    raise ValueError(f"{what} has the key {key!r:.40}, which is not text")
            waiting += [(inner, depth + 1) for inner in entries.values()]
        elif type(item) in (list, tuple):
            waiting += [(inner, depth + 1) for inner in item]
        elif type(item) is int and abs(item) > 2**63:
            raise ValueError(f"{what} holds a whole number of {item.bit_length()} bits")
        elif item is not None and type(item) not in (str, int, float, bool):
            raise ValueError(f"{what} holds a {type(item).__name__}, which is not a plain value")


def check_numbers(value: Any, what: str) -> None:
    """ValueError for a number in plain `value` that cannot be an option of a network: not finite, or huge."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, Mapping):
            waiting += item.values()
        elif isinstance(item, list | tuple):
            waiting += item
        elif isinstance(item, int | float) and (not math.isfinite(item) or abs(item) > MAX_NUMBER):
            raise ValueError(f"{what} holds the number {item}, which must be finite and at most {MAX_NUMBER}")


def check_fit(
    build: Callable[[], nn.Module],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    num_bytes: int,
    path: Path,
) -> None:
    """Raises `ValueError` unless the network that `build` makes has tensors of exactly these names and shapes.

    The network is built without memory, and no further than a file of `num_bytes` bytes with as many tensors could
    fill it, so a description of a giant is refused as fast as one of a dwarf.
    """
    most_bytes = WIDENING * num_bytes + (64 << 20)  # a network is built whole before its own head is cut off
    try:
        with torch.device("meta"), _Budget(3 * len(shapes) + 300, 3 * most_bytes):
            network = build()
            state = network.state_dict()
            expected = {key: tuple(value.shape) for key, value in state.items()}
            saved = _num_bytes(state.values())
            every = _num_bytes((*network.parameters(), *network.buffers()))
    except _TooLargeError:
        raise ValueError(
            f"{path} is refused: its header describes a network far larger than the {len(shapes)} tensors and "
            f"{num_bytes / 1e6:.1f} MB of the file"
        ) from None
    except ValueError as error:
        raise ValueError(f"{path} is refused: {error}") from None
    except Exception as error:  # what a description of wrong types leads to, anywhere in any builder
        raise ValueError(
            f"{path} is refused: its header describes a network that cannot be built ({type(error).__name__}: "
            f"{first_line(error)})"
        ) from None
    missing, unexpected = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    reshaped = [key for key in expected.keys() & shapes.keys() if expected[key] != shapes[key]]
    if missing or unexpected or reshaped:
        example = next(iter(sorted(missing) + sorted(unexpected) + sorted(reshaped)))
        raise ValueError(
            f"{path}: the weights are not those of the model its header describes ({len(missing)} missing, "
            f"{len(unexpected)} left over, {len(reshaped)} of another shape; the first: {example}); "
            "write the file again with `vertebra train`"
        )
    if saved > most_bytes or every - saved > MAX_UNSAVED:
        raise ValueError(
            f"{path} is refused: the network that its header describes would take {every / 1e6:.0f} MB, and the file "
            f"has {num_bytes / 1e6:.1f} MB"
        )


class _TooLargeError(Exception):
    """More has been built than the file could fill."""


_FACTORIES = {
    torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.tensor, torch.linspace,
    torch.empty_strided, torch.eye,
}  # fmt: skip
_RANDOM = {Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_}


class _Budget(TorchFunctionMode):
    """Ends a build with `_TooLargeError` once it has made so many tensors, or tensors of so many bytes.

    Random numbers are left out: there is no memory to hold them, and torch imports sympy to see that.
    """

    def __init__(self, tensors: int, num_bytes: int) -> None:
        super().__init__()
        self.tensors = tensors
        self.num_bytes = num_bytes

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _RANDOM:
            return args[0] if args else kwargs["tensor"]
        sizes = [arg for arg in args if isinstance(arg, int | float)]
        if func is torch.arange and any(abs(size) > MAX_NUMBER for size in sizes):
            raise _TooLargeError
        result = func(*args, **(kwargs or {}))
        if func in _FACTORIES and isinstance(result, Tensor):
            self.tensors -= 1
            self.num_bytes -= _num_bytes([result])
            if self.tensors < 0 or self.num_bytes < 0:
                raise _TooLargeError
        return result


def first_line(error: BaseException) -> str:
    """The first line of what an error says, at most 200 characters; its kind where it says nothing."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def find_model(path: Path) -> Path:
    """The model that `path` means: itself, or of a run's folder the model file, else its best or last checkpoint."""
    if not path.is_dir():
        return path
    names = ("model.safetensors", "checkpoints/best.ckpt", "checkpoints/last.ckpt")
    for name in names:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} is a folder without a model; a run's folder has one of {', '.join(names)}")
