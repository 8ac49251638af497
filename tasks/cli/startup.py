"""Keeps out of a command what other packages import and no command uses: half the time to a first step.

    torchmetrics   imports scipy.signal, matplotlib.pyplot, torchvision's models and transformers wherever they are
                   installed
    torch.optim    imports torch._dynamo, and sympy with it, to say that optimisers are not to be compiled
    lightning      imports it, too, to say the same of its own and to tell whether a model has been compiled

Of the command line alone: `import tasks` in another program changes nothing.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import PackageNotFoundError
from types import FunctionType, ModuleType
from typing import Any

Execute = Callable[[ModuleType], None]
UNUSED = ("matplotlib", "scipy", "torchvision", "transformers")
"""Of torchmetrics, of which Lightning needs the class `Metric`."""
DYNAMO = "torch._dynamo"


def import_less() -> None:
    """From now on the packages above are imported without what is not used; nothing is imported yet."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds the modules of `_EXECUTE` as ever, and has each executed by the function there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _EXECUTE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            execute = functools.partial(_EXECUTE[fullname], spec.loader.exec_module)
            spec.loader.exec_module = execute  # type: ignore[method-assign]
        return spec


def _torchmetrics(execute: Execute, module: ModuleType) -> None:
    try:
        with _hidden(UNUSED):
            execute(module)
    except ImportError:  # a version that cannot do without
        for name in [name for name in sys.modules if name.startswith("torchmetrics.")]:
            del sys.modules[name]
        execute(module)


@contextmanager
def _hidden(names: Sequence[str]) -> Iterator[None]:
    """As if the packages `names` were not installed, but for those that are imported already."""
    from lightning_utilities.core import imports

    hidden = [name for name in names if name not in sys.modules]
    version = imports._version  # type: ignore[attr-defined]

    def version_of(name: str) -> str:
        if name in hidden:
            raise PackageNotFoundError(name)
        return version(name)

    imports._version = version_of  # type: ignore[attr-defined]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        yield
    finally:
        imports._version = version  # type: ignore[attr-defined]
        for name in hidden:
            del sys.modules[name]
        imports.package_available.cache_clear()


def _compile(name: str, execute: Execute, module: ModuleType) -> None:
    """`name` is the module's decorator of what is not to be compiled."""
    execute(module)
    module.__dict__[name] = _disable_if_there(getattr(module, name))


def _disable_if_there(disable: Callable[..., Any]) -> Callable[..., Any]:
    """`disable`, a decorator of what is not to be compiled, for when it matters: where torch._dynamo is not there
    nothing is being compiled."""

    @functools.wraps(disable)
    def disable_if_there(function: Any = None, *arguments: Any, **options: Any) -> Any:
        if function is None:
            return lambda function: disable_if_there(function, *arguments, **options)
        if not isinstance(function, FunctionType):
            return disable(function, *arguments, **options)
        disabled = functools.cache(lambda: disable(function, *arguments, **options))

        @functools.wraps(function)
        def call(*args: Any, **keywords: Any) -> Any:
            return (disabled() if DYNAMO in sys.modules else function)(*args, **keywords)

        return call

    return disable_if_there


def _optimizer(execute: Execute, module: ModuleType) -> None:
    """The same for what breaks a compiled graph around the step of each optimiser."""
    execute(module)
    wrap: Callable[..., Any] = module._use_grad_for_differentiable

    @functools.wraps(wrap)
    def wrap_if_there(function: Callable[..., Any]) -> Callable[..., Any]:
        import torch

        plain, wrapped = function, wrap(function)

        @functools.wraps(plain)
        def step(self: Any, *args: Any, **options: Any) -> Any:
            if DYNAMO in sys.modules:
                return wrapped(self, *args, **options)
            with torch.set_grad_enabled(self.defaults["differentiable"]):
                return plain(self, *args, **options)

        return step

    module.__dict__["_use_grad_for_differentiable"] = wrap_if_there


class _TypeOfCompiled(type):
    def __instancecheck__(cls, value: object) -> bool:
        dynamo = sys.modules.get(DYNAMO)
        return dynamo is not None and isinstance(value, dynamo.OptimizedModule)


class OptimizedModule(metaclass=_TypeOfCompiled):
    """Has the instances of `torch._dynamo.OptimizedModule`, of which there are none before that is imported."""


def _lightning(execute: Execute, module: ModuleType) -> None:
    if DYNAMO in sys.modules:
        execute(module)
        return
    stand_in = ModuleType(DYNAMO)
    stand_in.__dict__["OptimizedModule"] = OptimizedModule
    sys.modules[DYNAMO] = stand_in
    try:
        execute(module)
    except ImportError:  # a version that needs more of it
        del sys.modules[DYNAMO]
        execute(module)
    finally:
        if sys.modules.get(DYNAMO) is stand_in:
            del sys.modules[DYNAMO]


_EXECUTE: dict[str, Callable[[Execute, ModuleType], None]] = {
    "torchmetrics": _torchmetrics,
    "lightning.fabric.wrappers": _lightning,
    "lightning.pytorch.utilities.compile": _lightning,
    "torch._compile": functools.partial(_compile, "_disable_dynamo"),
    "torch.compiler": functools.partial(_compile, "disable"),
    "torch.optim.optimizer": _optimizer,
}
