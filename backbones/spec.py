"""How an extractor describes itself: the builder's name and every option, as plain JSON values."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from .checks import check_types, nearest
from .features import FeatureExtractor

Init = TypeVar("Init", bound=Callable[..., None])


def describes_itself(name: str) -> Callable[[Init], Init]:
    """Decorator of ``__init__``: writes `name`, a key of `BUILDERS`, and every option into ``spec``."""

    def decorate(init: Init) -> Init:
        signature = inspect.signature(init)

        @functools.wraps(init)
        def described(self: FeatureExtractor, *args: Any, **kwargs: Any) -> None:
            init(self, *args, **kwargs)
            bound = signature.bind(self, *args, **kwargs)
            bound.apply_defaults()
            _, *options = bound.arguments.items()
            self.spec = {"name": name, **plain(dict(options))}

        return cast(Init, described)

    return decorate


def default_options(builder: Callable[..., Any]) -> dict[str, Any]:
    """Keyword options of `builder` with their defaults (`inspect.Parameter.empty` where there is none).

    An option that a `functools.partial` has fixed is part of what the name means, so it is left out.
    """
    fixed: Mapping[str, Any] = builder.keywords if isinstance(builder, functools.partial) else {}
    parameters = inspect.signature(cast(Callable[..., Any], builder)).parameters.values()
    return {p.name: p.default for p in parameters if p.kind == p.KEYWORD_ONLY and p.name not in fixed}


def resolve(name: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` completed with the builder's defaults. An unknown or missing one is a ValueError."""
    known = default_options(builder)
    for option in options:
        if option not in known:
            hint = nearest(option, known) or f"; it takes {', '.join(known)}"
            raise ValueError(f"{name} has no option {option!r}{hint}")
    resolved = {**known, **options}
    for option, value in resolved.items():
        if value is inspect.Parameter.empty:
            raise ValueError(f"{name} needs the option {option!r}")
    check_types(f"{name}: ", builder, resolved)
    return resolved


def title(spec: Mapping[str, Any]) -> str:
    """What people call the network that a backbone's `spec` describes: of an adapter, the network's own name."""
    return str(spec["model"] if spec["name"] in ("timm", "torchvision") and "model" in spec else spec["name"])


def plain(value: Any) -> Any:
    """`value` with tuples as lists and mappings as dicts, as JSON would bring it back."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in cast(Mapping[Any, Any], value).items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in cast(Sequence[Any], value)]
    return value
