"""How far reading a large data set is, for whoever shows it: nothing is printed here."""

import contextlib
from collections.abc import Callable, Iterator

Show = Callable[[str, int, int], None]
"""What is done, how many of them are done, and of how many."""

_show: list[Show] = []


@contextlib.contextmanager
def showing(show: Show) -> Iterator[None]:
    """Calls `show` at each step of what is read inside, from whichever thread."""
    _show.append(show)
    try:
        yield
    finally:
        _show.pop()


def step(what: str, done: int, total: int) -> None:
    """Tells of a step."""
    for show in _show[-1:]:
        show(what, done, total)
