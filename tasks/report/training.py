"""The page's sections on how a run went and what it was: curves, settings, versions, data."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tasks.report.charts import line_chart
from tasks.report.page import Section, Table, Text

MAX_LINES = 8


def training_section(folder: Path) -> Section:
    """Curves of all that the run logged into metrics.csv."""
    path = folder / "metrics.csv"
    if not path.is_file():
        return Section("Training")
    columns: dict[str, tuple[list[float], list[float]]] = {}
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        for row in rows_of(file):
            step = _number(row.get("step"))
            for name, text in row.items():
                value = _number(text)
                if name and name not in ("step", "epoch") and value is not None and step is not None:
                    columns.setdefault(name, ([], []))
                    columns[name][0].append(step)
                    columns[name][1].append(value)
    groups = {
        "Losses": [n for n in columns if n.startswith("train/") or n == "val/loss"],
        "Learning rates": [n for n in columns if n.startswith("lr-")],
        "Metrics of validations": [
            n for n in columns if n.startswith("val/") and "loss" not in n and n.count("/") == 1
        ],
        "Images a second": [n for n in columns if n == "perf/images_per_second"],
        "Share of time waiting for data": [n for n in columns if n == "perf/data_wait"],
        "Memory, GiB": [n for n in columns if n == "perf/memory_gib"],
    }
    charts = [
        line_chart({name: columns[name] for name in names[:MAX_LINES]}, title=title, x="step", y="")
        for title, names in groups.items()
    ]
    last = {name: values[1][-1] for name, values in columns.items()}
    return Section("Training", charts=[chart for chart in charts if chart], values={"last": last})


def rows_of(lines: Iterable[str]) -> list[dict[str, str | None]]:
    """The rows of a CSV file; none from where it is damaged."""
    rows: list[dict[str, str | None]] = []
    try:
        for row in csv.DictReader(lines):
            rows.append({name: text for name, text in row.items() if isinstance(name, str)})
    except csv.Error:
        pass
    return rows


def setup_section(folder: Path) -> Section:
    """What config.yaml and environment.json say: settings, versions, fingerprints of the data."""
    details, tables, values = [], [], {}
    if (folder / "config.yaml").is_file():
        text = (folder / "config.yaml").read_text(encoding="utf-8", errors="replace")
        details.append(Text("Settings (config.yaml)", text))
    path = folder / "environment.json"
    if path.is_file():
        try:
            around = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            around = {}
        git = around.get("git") or {}
        rows = [
            ("command", str(around.get("command", ""))),
            ("python", str(around.get("python", ""))),
            ("device", str(around.get("device", ""))),
            ("commit", f"{git.get('commit', '')}{', with changes' if git.get('changed') else ''}"),
        ]
        for name, split in (around.get("data") or {}).items():
            rows.append(
                (f"data, {name}", f"{split.get('images')} images, fingerprint {split.get('fingerprint')}")
            )
        tables.append(Table("How it came about", ("what", ""), [row for row in rows if row[1]]))
        packages = around.get("packages") or {}
        details.append(
            Text("Packages", "\n".join(f"{name}=={version}" for name, version in packages.items()))
        )
        values = {"data": around.get("data"), "command": around.get("command")}
    if (folder / "log.txt").is_file():
        lines = (folder / "log.txt").read_text(encoding="utf-8", errors="replace").splitlines()
        shown = lines if len(lines) <= 200 else [*lines[:60], f"… {len(lines) - 160} lines …", *lines[-100:]]
        details.append(Text("Log", "\n".join(shown)))
    return Section("How it came about", tables=tables, details=details, values=values)


def _number(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if np.isfinite(value) else None
