"""Files that appear whole or not at all."""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


@contextmanager
def write_whole(path: str | os.PathLike[str], *, same_ending: bool = True) -> Iterator[Path]:
    """The path of a new file beside `path` to write to; it takes the place of `path` once the block is left, and goes
    away where that raises. It has the same ending, by which some writers choose a format, unless `same_ending` is
    False. What a killed process leaves of it is written over the next time.

    It is on the disk before it gets its name, or a crash of the machine could leave the name without the contents.
    """
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}" if same_ending else f".{path.name}.partial")
    try:
        yield partial
        with open(partial, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes `text` in UTF-8, whole or not at all."""
    with write_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes `value` as JSON, whole or not at all."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_json_list(file: TextIO, items: Iterable[Any]) -> None:
    """Writes a JSON list, a line for each of the items, which may be more than fit into memory."""
    separator = "[\n"
    for item in items:
        file.write(separator + json.dumps(item))
        separator = ",\n"
    file.write("[]" if separator == "[\n" else "\n]")


def write_csv(path: str | os.PathLike[str], header: Sequence[str], rows: Iterable[Iterable[Any]]) -> None:
    """Writes a table with a line for its columns' names, whole or not at all."""
    with write_whole(path) as partial, open(partial, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
