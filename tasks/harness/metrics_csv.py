"""`metrics.csv`: rows of numbers that a killed process leaves whole, and that a run which resumes goes on with."""

import csv
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter

from tasks.files import write_csv

Row = dict[str, float | str]
"""Numbers as they were logged, or as they are written in the file, by name."""


class MetricsFile(CSVLogger):
    """Lightning's, which replaces the file in one go where a row has new names and else appends to it."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder, name="", version="")
        self.path = Path(folder) / "metrics.csv"

    @rank_zero_only
    def open(self, step: int | None = None, *, is_validation_due: bool = False) -> None:
        """Opens the file now: without rows, or with those of a run that goes on after `step`. Where that run was
        stopped before a validation was done with, the row of this one will come again and goes."""
        rows = [] if step is None else rows_before(self.path, step, is_validation_due=is_validation_due)
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*Experiment logs directory .* exists and is not empty.*"
            )
            self._experiment = _Writer(self.log_dir, self.path, rows)


class _Writer(ExperimentWriter):
    def __init__(self, log_dir: str, path: Path, rows: list[Row]) -> None:
        self.path = path
        super().__init__(log_dir=log_dir)
        if rows:
            self._write(rows)
        else:
            path.unlink(missing_ok=True)

    def _check_log_dir_exists(self) -> None:
        """What is there stays until it is replaced."""

    def save(self) -> None:
        """Writes what was logged since the last time."""
        new: list[Row] = [{**row} for row in self.metrics]
        self.metrics = []
        if not set().union(*new) <= set(self.metrics_keys):
            self._write([*rows_before(self.path), *new])
        elif new:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, self.metrics_keys).writerows(new)

    def _write(self, rows: list[Row]) -> None:
        self.metrics_keys = sorted({name for row in rows for name in row})
        write_csv(self.path, self.metrics_keys, ([row.get(k, "") for k in self.metrics_keys] for row in rows))


def rows_before(path: Path, step: int = sys.maxsize, *, is_validation_due: bool = False) -> list[Row]:
    """The rows of the file of what came before the step `step`, values as they are written."""
    if not path.is_file():
        return []
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return [row for row in _whole_rows(file) if _is_before(row, step, is_validation_due)]


def _whole_rows(lines: Iterable[str]) -> Iterable[Row]:
    """Rows without their empty cells; none that a killed process has left in pieces."""
    reader = csv.DictReader(lines, strict=False)
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error:  # a cell without an end
            continue
        if None not in row and None not in row.values() and str(row.get("step", "")).isdecimal():
            yield {name: value for name, value in row.items() if value}


def _is_before(row: Row, step: int, is_validation_due: bool) -> bool:
    at = int(row["step"])
    is_validation = any(name.startswith("val/") for name in row)
    return at < step and not (is_validation and is_validation_due and at == step - 1)
