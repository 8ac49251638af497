"""Errors for wrong options: what came, what was wanted, and the nearest valid word."""

import difflib
import inspect
import types
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeGuard, Union, cast, get_args, get_origin


def nearest(word: str, known: Iterable[str], *, first: Container[str] = ()) -> str:
    """A hint, ", did you mean 'x' or 'y'?", of the words of `known` most like `word`, those in `first` before others;
    empty if none is."""
    found = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    found.sort(key=lambda name: name not in first)
    return f", did you mean {' or '.join(map(repr, found))}?" if found else ""


def suggest(word: str, choices: Iterable[str]) -> str:
    """The nearest of `choices`, or a few of them when none is near.

    A dotted key is also compared by its last part alone: `max_steps` finds `trainer.max_steps`.
    """
    choices = sorted(choices)
    close = difflib.get_close_matches(word, choices, n=3, cutoff=0.6)
    if not close and choices:
        last = {choice.rsplit(".", 1)[-1]: choice for choice in choices}
        close = [
            last[name] for name in difflib.get_close_matches(word.rsplit(".", 1)[-1], last, n=3, cutoff=0.6)
        ]
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"choose from {', '.join(choices)}" if len(choices) <= 40 else "see --help for what can be set"


def check_choice(option: str, value: object, choices: Iterable[object]) -> None:
    """Raises ValueError unless `value` is one of `choices`."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{option}={value!r} is unknown; choose one of {', '.join(map(repr, choices))}")


def check_positive(option: str, value: object) -> None:
    """Raises ValueError unless `value` is a whole number from 1 up."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{option}={value!r} must be a whole number of at least 1")


def check_counts(option: str, values: object) -> None:
    """Raises ValueError unless `values` is a list, possibly empty, of whole numbers from 1 up."""
    is_list = isinstance(values, Iterable) and not isinstance(values, str)
    counts: list[object] = list(cast(Iterable[object], values)) if is_list else [None]
    if any(not isinstance(count, int) or isinstance(count, bool) or count < 1 for count in counts):
        raise ValueError(f"{option}={values!r} must be a list of whole numbers of at least 1")


def check_types(what: str, builder: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raises ValueError for an option whose value is not of the type that the signature of `builder` gives.

    Options come from the command line and from files, where a number may be text and a name a list. `what` is
    what messages put before the option's name.
    """
    try:
        parameters = inspect.signature(builder, eval_str=True).parameters
    except NameError:  # of types that are imported for type checkers alone
        return
    for option, value in options.items():
        if option in parameters:
            check_type(f"{what}{option}", value, parameters[option].annotation)


def check_type(what: str, value: Any, annotation: Any) -> None:
    """Raises ValueError unless `value`, which messages call `what`, is of the annotated type."""
    if not _is_of(value, annotation):
        raise ValueError(f"{what}={value!r:.80} must be {_in_words(annotation)}")


def _is_of(value: Any, annotation: Any) -> bool:
    """Whether `value` is of the annotated type; True where that cannot be told."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return any(_is_of(value, one) for one in inner)
    if annotation is None or annotation is type(None):
        return value is None
    if origin is Literal:
        return isinstance(value, tuple(map(type, inner)))  # which of them, the builder says
    if annotation is float:
        return not isinstance(value, bool) and isinstance(value, Real)
    if annotation is int:
        return not isinstance(value, bool) and isinstance(value, Integral)
    if annotation in (bool, str):
        return isinstance(value, annotation)
    if origin is tuple:
        if not _is_list(value):
            return False
        if inner[-1:] == (Ellipsis,):
            return all(_is_of(item, inner[0]) for item in value)
        return len(value) == len(inner) and all(map(_is_of, value, inner))
    if origin in (list, Sequence):
        return _is_list(value) and all(_is_of(item, inner[0]) for item in value)
    if origin in (dict, Mapping):
        return isinstance(value, Mapping)
    return True


def _is_list(value: object) -> TypeGuard[Sequence[Any]]:
    """Whether `value` is a sequence other than text."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _in_words(annotation: Any) -> str:
    """The annotated type, as a sentence names it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_in_words(one) for one in inner)
    if origin is Literal:
        return _in_words(type(inner[0]))
    if origin in (list, Sequence, tuple):
        count = f"{len(inner)} " if origin is tuple and inner[-1:] != (Ellipsis,) else ""
        plural = {int: "whole numbers", float: "numbers", str: "texts"}.get(inner[0], "values")
        return f"a list of {count}{plural}"
    if origin in (dict, Mapping):
        return "names with values"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names.get(annotation, "null")
