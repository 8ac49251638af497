"""A simulated `cuda:0` on a machine without one: real data on the CPU, real autograd, CUDA's rules and its waits.

Tensors report `cuda:0` and follow CUDA's policy of autocast, and each operator runs on the CPU. Operands of both
devices raise, as they do on a GPU, and whatever makes the host wait for the GPU is logged by line of source:

    with SimulatedCuda() as cuda:
        model.to("cuda")
        ...
        assert cuda.total() == 0, cuda

Kernels that do not come with torch or torchvision cannot run here, so `import triton` fails; those of detection have
equivalents in `kernels_on_cpu.py`. Streams and events do nothing. A wait in the backward
pass counts for the line that began it.
"""

import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, Self
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

ROOT = Path(__file__).parents[2]
DEVICE = torch.device("cuda", 0)
CPU = torch.device("cpu")

# Operators whose result is a Python value or has a shape that only the device knows.
_WAITS = {
    "aten::_local_scalar_dense",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
    "aten::unique_dim_consecutive",
    "aten::bincount",
    "aten::equal",
    "aten::multinomial",  # looks at the probabilities first
    "torchvision::nms",
}
_COPIES = {"aten::_to_copy", "aten::copy_", "aten::_foreach_copy_"}
_INDEXING = {
    "aten::index",
    "aten::_unsafe_index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index_put",
}
_NO_SCALARS = {"aten::cat", "aten::stack"}  # a tensor on the CPU without dimensions is no operand of these


class SimulatedTensor(Tensor):
    """A tensor that reports `cuda:0`; what it contains lies in `data_on_cpu`."""

    data_on_cpu: Tensor

    @staticmethod
    def __new__(cls, data: Tensor) -> "SimulatedTensor":
        return Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            data.shape,
            strides=data.stride(),
            storage_offset=data.storage_offset(),
            dtype=data.dtype,
            device=DEVICE,
        )

    def __init__(self, data: Tensor) -> None:
        self.data_on_cpu = data

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{function} on a simulated tensor outside of `with SimulatedCuda()`")

    # `Module.to` exchanges parameters for tensors of another class if these say what they consist of.
    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["data_on_cpu"], None

    @staticmethod
    def __tensor_unflatten__(tensors: dict[str, Tensor], *_: Any) -> "SimulatedTensor":
        return SimulatedTensor(tensors["data_on_cpu"])

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:  # saved as a tensor on the CPU
        return self.data_on_cpu.__reduce_ex__(protocol)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"on {DEVICE}: {self.data_on_cpu}"


def _kernels_of(kernels: Any) -> Callable[[torch.device], Any]:
    return lambda device: kernels if device.type == "cuda" else None


def _conv_relu(x: Tensor, weight: Tensor, bias: Tensor, *geometry: Any) -> Tensor:
    return F.conv2d(x, weight, bias, *geometry).relu_()


def _conv_add_relu(
    x: Tensor, weight: Tensor, z: Tensor, alpha: float, bias: Tensor, *geometry: Any
) -> Tensor:
    return F.conv2d(x, weight, bias, *geometry).add_(z, alpha=alpha).relu_()


_ON_CPU = {  # of operators that CUDA alone has
    "aten::cudnn_convolution_relu": _conv_relu,
    "aten::cudnn_convolution_add_relu": _conv_add_relu,
}


class SimulatedCuda(TorchDispatchMode):
    """The device, while it is entered, and its log: `waits` counts those of each line of source."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self._pinned: dict[int, Any] = {}  # storages in page-locked memory, by address
        self._patches = ExitStack()

    def __enter__(self) -> Self:
        exchange = _library().exchange_cuda
        exchange()
        self._patches.callback(exchange)
        self._patches.enter_context(torch.autograd.set_multithreading_enabled(False))
        lifts = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # `torch.tensor(…, device="cuda")` shows its copy
        self._patches.callback(torch._C._set_only_lift_cpu_tensors, lifts)
        self._patches.callback(_restore_triton, sys.modules.get("triton"))
        sys.modules["triton"] = None  # type: ignore[assignment] (what import takes for a missing package)
        # `Module.to` would else write into parameters what is on the other device.
        swaps = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(True)
        self._patches.callback(torch.__future__.set_swap_module_params_on_conversion, swaps)
        from tests.device import kernels_on_cpu

        for module in ("suppression", "matching", "focal_loss"):
            place = f"tasks.detection.{module}.kernels_for"
            self._patches.enter_context(mock.patch(place, _kernels_of(kernels_on_cpu)))
        for name, value in {
            "pin_memory": _pinned(self),
            "is_pinned": lambda t, *_: self._is_pinned(t),
        }.items():
            self._patches.enter_context(
                mock.patch.object(Tensor, name, value)
            )  # loaders call them in threads
        for name, value in _cuda_functions(self).items():
            self._patches.enter_context(mock.patch.object(torch.cuda, name, value))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def total(self) -> int:
        """Waits so far."""
        return self.waits.total()

    def clear(self) -> None:
        """Forgets the waits so far."""
        self.waits.clear()

    def __str__(self) -> str:
        lines = (f"    {count} at {place}" for place, count in self.waits.most_common())
        return "\n".join((f"{self.total()} waits", *lines))

    def wait(self, what: str) -> None:
        """Logs a wait at the line that runs."""
        self.waits[f"{_line()} ({what})"] += 1

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if _is_made_of_others(function):
            return self._parts(function, args, kwargs)
        name = function.name().split(".")[0]
        tensors = _tensors((args, kwargs))
        on_cuda = any(isinstance(tensor, SimulatedTensor) for tensor in tensors)
        if on_cuda:
            self._check_devices(name, function, args, tensors)
        if self._waits(name, args, kwargs, on_cuda):
            self.wait(name.removeprefix("aten::"))

        device = kwargs.get("device")
        gives_cuda = on_cuda if device is None else torch.device(device).type == "cuda"
        on_cpu = _mapped(SimulatedTensor, lambda tensor: tensor.data_on_cpu, (args, kwargs))
        if device is not None:
            on_cpu[1]["device"] = CPU
        pinned = bool(on_cpu[1].pop("pin_memory", False))
        result = _ON_CPU.get(name, function)(*on_cpu[0], **on_cpu[1])
        if not gives_cuda:
            copies = any(result is tensor for tensor in tensors) or not isinstance(result, Tensor)
            return self._pin(result) if pinned and not copies else _given(result, args, on_cpu[0])
        result = return_and_correct_aliasing(function, args, kwargs, _mapped(Tensor, SimulatedTensor, result))
        for tensor in _tensors(args if function._schema.is_mutable else ()):
            if isinstance(tensor, SimulatedTensor) and tensor.shape != tensor.data_on_cpu.shape:
                raise NotImplementedError(f"{name} changes the shape of a tensor in place")
        return result

    def _parts(self, function: Any, args: Any, kwargs: Any) -> Any:
        """An operator made of others, which inference mode leaves whole."""
        super().__enter__()
        try:
            return function.decompose(*args, **kwargs)
        finally:
            super().__exit__(None, None, None)

    def _check_devices(self, name: str, function: Any, args: Any, tensors: list[Tensor]) -> None:
        """Raises RuntimeError for operands of both devices, unless the operator is one that may have them."""
        if name in _COPIES:
            return
        if name in _INDEXING:  # indices may lie on the CPU
            tensors = [args[0], *args[2:3]]
        written = [args[i] for i in _written(function) if i < len(args) and isinstance(args[i], Tensor)]
        for tensor in tensors:
            scalar = not tensor.dim() and name not in _NO_SCALARS
            if not isinstance(tensor, SimulatedTensor) and (not scalar or any(tensor is w for w in written)):
                raise RuntimeError(
                    "Expected all tensors to be on the same device, but found at least two devices, "
                    f"{DEVICE} and cpu! ({name} with a tensor of shape {tuple(tensor.shape)} on the CPU)"
                )

    def _waits(self, name: str, args: Any, kwargs: dict[str, Any], on_cuda: bool) -> bool:
        """Whether the host waits for the device, or copies what the device then has to wait for."""
        if name == "aten::_to_copy":
            target = kwargs.get("device")
            target = args[0].device if target is None else torch.device(target)
            if not kwargs.get("non_blocking"):
                return target.type != args[0].device.type
            # To the CPU this copies into page-locked memory.
            return target.type == "cuda" and not args[0].is_cuda and not self._is_pinned(args[0])
        if name == "aten::copy_":
            target, source = args[:2]
            non_blocking = args[2] if len(args) > 2 else kwargs.get("non_blocking", False)
            if target.is_cuda == source.is_cuda:
                return False
            if target.is_cuda and not source.dim():
                return True
            return not (non_blocking and self._is_pinned(source if target.is_cuda else target))
        if name == "aten::_foreach_copy_":
            return any(a.is_cuda != b.is_cuda for a, b in zip(*args[:2], strict=True))
        if not on_cuda:
            return False
        if name in _INDEXING:
            indices = [index for index in args[1] if index is not None]
            masks = [index for index in indices if index.dtype in (torch.bool, torch.uint8)]
            if len(args) > 2 and not args[2].is_cuda:  # a number: a fill where there is one mask, else copied
                return not (masks and len(indices) == 1 and masks[0].is_cuda)
            return bool(masks) or any(not index.is_cuda for index in indices)
        if name == "aten::where":  # takes a tensor of no dimension from the CPU, and copies it
            return not all(tensor.is_cuda for tensor in args)
        if name == "aten::repeat_interleave":
            return kwargs.get("output_size") is None
        return name in _WAITS

    def _pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = storage
        return tensor

    def _is_pinned(self, tensor: Tensor) -> bool:
        return not tensor.is_cuda and tensor.untyped_storage().data_ptr() in self._pinned


def is_missing() -> str | None:
    """Why there is no simulated device here; None if there is one."""
    if torch.cuda.is_available():
        return "there is a real CUDA device"
    return None if shutil.which("g++") else "no g++ to compile simulated_cuda.cpp with"


@lru_cache(maxsize=1)
def _library() -> ctypes.CDLL:
    """simulated_cuda.cpp, compiled (2 s)."""
    torch_files = Path(torch.__file__).parent
    target = Path(tempfile.mkdtemp()) / "simulated_cuda.so"
    command = ["g++", "-std=c++20", "-shared", "-fPIC", f"-I{torch_files / 'include'}"]
    command += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"]
    command += [str(Path(__file__).with_suffix(".cpp")), "-o", str(target)]
    command += [f"-L{torch_files / 'lib'}", "-lc10", "-ltorch_cpu"]
    subprocess.run(command, check=True)
    library = ctypes.CDLL(str(target))
    shutil.rmtree(target.parent)
    return library


def _restore_triton(module: Any) -> None:
    if module is None:
        sys.modules.pop("triton", None)
    else:
        sys.modules["triton"] = module


def _pinned(log: SimulatedCuda) -> Any:
    def pin_memory(tensor: Tensor, *_: Any) -> Tensor:
        if tensor.is_cuda:
            raise RuntimeError("cannot pin a tensor on cuda:0 only dense CPU tensors can be pinned")
        return tensor if log._is_pinned(tensor) else log._pin(tensor.clone())

    return pin_memory


def _cuda_functions(log: SimulatedCuda) -> dict[str, Any]:
    """What replaces functions of `torch.cuda` that would look for a driver."""

    class Event:
        def __init__(self, *_: Any, **__: Any) -> None: ...
        def record(self, *_: Any) -> None: ...
        def wait(self, *_: Any) -> None: ...
        def query(self) -> bool:
            return True

        def synchronize(self) -> None:
            log.wait("Event.synchronize")

    class Stream:
        def synchronize(self) -> None:
            log.wait("Stream.synchronize")

    return {
        "_lazy_init": lambda: None,
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
        "synchronize": lambda device=None: log.wait("synchronize"),
        "max_memory_allocated": lambda device=None: 0,
        "get_device_properties": lambda device=None: mock.Mock(
            total_memory=80 * 2**30, multi_processor_count=132
        ),
        "get_device_capability": lambda device=None: (9, 0),
        "get_device_name": lambda device=None: "simulated",
        "current_stream": lambda device=None: Stream(),
        "Event": Event,
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "empty_cache": lambda: None,
        "mem_get_info": lambda device=None: (80 * 2**30, 80 * 2**30),
    }


@cache
def _is_made_of_others(function: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


@cache
def _written(function: Any) -> list[int]:
    """The places of the arguments that the operator writes to."""
    aliases = [argument.alias_info for argument in function._schema.arguments]
    return [i for i, alias in enumerate(aliases) if alias is not None and alias.is_write]


def _tensors(values: Any) -> list[Tensor]:
    """The tensors in lists, tuples and dicts, which is all that operators take."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return []
    return [tensor for value in values for tensor in _tensors(value)]


def _mapped(kind: type, function: Callable[[Any], Any], values: Any) -> Any:
    """`values` with what is of `kind` replaced by `function` of it."""
    if isinstance(values, kind):
        return function(values)
    if type(values) in (list, tuple):
        return type(values)([_mapped(kind, function, value) for value in values])
    if type(values) is dict:
        return {key: _mapped(kind, function, value) for key, value in values.items()}
    return values


def _given(result: Any, args: Any, on_cpu: Any) -> Any:
    """The argument itself where an operator gave its first one back."""
    return args[0] if args and isinstance(result, Tensor) and result is on_cpu[0] else result


def _line() -> str:
    """The innermost line of this project that runs, and the line of another package than torch that it runs by."""
    frame, other = sys._getframe(1), ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if str(path) != __file__:
            if path.is_relative_to(ROOT) and "site-packages" not in path.parts:
                return f"{path.relative_to(ROOT)}:{frame.f_lineno}{other}"
            if not other and "torch" not in path.parts and "site-packages" in path.parts:
                other = f" via {'/'.join(path.parts[-2:])}:{frame.f_lineno}"
        frame = frame.f_back
    return other.removeprefix(" via ") or "?"
