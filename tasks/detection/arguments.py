"""`takes_arguments_of`: a builder that passes keyword arguments on still says by name which it takes."""

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

Builder = TypeVar("Builder", bound=Callable[..., Any])


def takes_arguments_of(source: Callable[..., Any]) -> Callable[[Builder], Builder]:
    """For a builder whose `**rest` go to `source`: its signature then has those of `source` that it does not
    name itself, with the defaults that `source` gives them.

    The tools read from signatures what can be set, and files keep every default (`resolved_spec`).
    """

    def decorate(builder: Builder) -> Builder:
        own = [p for p in inspect.signature(builder).parameters.values() if p.kind is p.KEYWORD_ONLY]
        names = {p.name for p in own}
        rest = [p for p in inspect.signature(source).parameters.values() if p.name not in names]
        builder.__signature__ = inspect.Signature([*own, *rest])  # type: ignore[attr-defined]
        return builder

    return decorate
