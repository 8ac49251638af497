"""What a command prints: words for a person, and with `--json` one object for a program.

A command prints its words as it goes, what it was asked for by `say_result`, and returns a `Found`. With `--quiet` only
results are printed, beside warnings and errors. With `--json` standard output gets the `Found` alone, at the end, and
words go to standard error; both together leave warnings, errors and the object.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

ABOUT = (
    "--quiet prints results, warnings and errors alone. --json prints one JSON object of what was found on\n"
    "standard output, and words on standard error. NO_COLOR=1 leaves colours out."
)
JSON, QUIET = "--json", "--quiet"

_results: list[TextIO] = []
"""Where results go while other words go nowhere."""


@dataclass(frozen=True)
class Found:
    """What a command has to tell a program."""

    values: Mapping[str, Any] = field(default_factory=dict)
    """Becomes the object of `--json`."""
    status: int = 0
    """The exit status."""

    def to_json(self) -> str:
        """The object in one line."""
        return json.dumps(to_plain(self.values))


@dataclass(frozen=True)
class Output:
    """Which words are printed, and whether `Found` is."""

    json: bool = False
    quiet: bool = False

    @contextlib.contextmanager
    def sorted_out(self) -> Iterator[None]:
        """What is printed inside goes where this output wants it."""
        with contextlib.ExitStack() as stack:
            stdout = sys.stdout
            if self.quiet:
                nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
                stack.enter_context(contextlib.redirect_stdout(nowhere))
                if not self.json:
                    _results.append(stdout)
                    stack.callback(_results.pop)
            elif self.json:
                stack.enter_context(contextlib.redirect_stdout(sys.stderr))
            elif stdout.isatty():
                stack.enter_context(contextlib.redirect_stdout(Folding(stdout)))  # type: ignore[type-var]
            yield


def take_flags(words: Sequence[str]) -> tuple[list[str], Output]:
    """The words that are left, and what `--json` and `--quiet` among them ask for.

    `--json=FILE` and `json=FILE` are settings of some commands.
    """
    for flag, word in itertools.pairwise(words):
        if flag == JSON and word.endswith(".json") and "=" not in word:
            raise ValueError(f"{JSON} prints what is found on standard output; give json={word} for a file")
    return [word for word in words if word not in (JSON, QUIET)], Output(JSON in words, QUIET in words)


def say_result(text: str) -> None:
    """Prints what was asked for, which `--quiet` prints, too."""
    print(text, flush=True)
    for stream in _results[-1:]:
        print(text, file=stream, flush=True)


def files_of(folder: Path) -> dict[str, Any]:
    """A folder and the names in it."""
    files = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    return {"folder": str(folder), "files": files}


def write_rows(file: Any, rows: list[dict[str, Any]]) -> None:
    """Writes what a command has counted into the file that `json=FILE` asks for, None for none. Raises `ValueError`
    where that is not possible."""
    if file is None:
        return
    from tasks.files import write_json

    try:
        write_json(str(file), rows)
    except OSError as error:
        raise ValueError(f"cannot write {file}: {error.strerror}; give json= another file") from error


def to_plain(value: Any) -> Any:
    """As JSON has it: null for what is no finite number, text for paths and the like."""
    if isinstance(value, bool | int | str) or value is None:
        return value
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [to_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return to_plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value)


def terminal_width() -> int | None:
    """Of the terminal that results go to, in characters; None where they go to a file."""
    stream = _results[-1] if _results else sys.stdout
    return columns(stream) if stream.isatty() else None


def columns(stream: TextIO) -> int:
    """Characters in a line of a terminal."""
    try:
        return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Folding:
    """A terminal that is given sentences longer than its lines; tables are left as they are."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(folded(text, columns(self._stream)))
        return len(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


def folded(text: str, width: int) -> str:
    """`text` with its long lines broken between words, behind the first with an indent of two."""
    if width < 20 or "\x1b" in text or "\r" in text:  # drawn by a program
        return text
    return "\n".join(_folded_line(line, width) for line in text.split("\n"))


def _folded_line(line: str, width: int) -> str:
    if len(line) <= width or re.search(r"\S {2,}\S|\|", line):
        return line
    indent = line[: len(line) - len(line.lstrip())]
    return textwrap.fill(
        line, width, subsequent_indent=f"{indent}  ", break_long_words=False, break_on_hyphens=False
    )


class Tee:
    """A stream of which a file keeps a copy, without lines that a terminal redraws."""

    def __init__(self, stream: TextIO, file: TextIO) -> None:
        self._stream = stream
        self._file = file

    def write(self, text: str) -> int:
        if not self._file.closed and "\x1b" not in text and "\r" not in text:
            self._file.write(text)
            self._file.flush()
        return self._stream.write(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
