"""Errors for wrong options: what came, what was wanted, and the nearest valid word."""

import difflib
from collections.abc import Iterable
from typing import cast


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint, ", did you mean 'x' or 'y'?", of the words of `known` most like `word`; empty if none is."""
    found = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
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
