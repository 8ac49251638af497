"""The hint in every message about a misspelt word."""

import difflib
from collections.abc import Iterable


def nearest(word: str, choices: Iterable[str]) -> str:
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
