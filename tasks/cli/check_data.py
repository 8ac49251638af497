"""The doctor's report as a table for the terminal, as JSON and as a page with pictures."""

import json
import math
import os
import time
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from tasks.cli.data import told_data_of
from tasks.data.quality.html_report import page
from tasks.data.quality.issues import ISSUES, IssueReport
from tasks.data.quality.report import Report, examine
from tasks.files import write_text
from tasks.preprocessing import Preprocessing


def check_data(config: DictConfig) -> int:
    """Examines `config.data` and leaves a report; the exit status, 1 where there is an error."""
    report = examine(told_data_of(config).with_files(), Preprocessing(**config.preprocessing))
    folder = Path(config.run_dir or Path("runs") / f"check_data-{time.strftime('%Y%m%d-%H%M%S')}")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(to_json(report), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "report.html", page(report, config.pictures))
    print_report(report)
    print(f"\n{folder}: report.html, report.json")
    return int(report.has_errors)


def summary(report: Report) -> list[dict[str, Any]]:
    """One row for each kind of issue there is: name, severity, count, what `data.on_invalid=fix` does, an example."""
    rows = []
    for issue in ISSUES:
        found = [finding for finding in report.findings if finding.issue is issue]
        if found:
            remedies = Counter(finding.remedy for finding in found)
            rows.append(
                {
                    "issue": issue.name,
                    "severity": issue.severity,
                    "count": len(found),
                    **{remedy: remedies[remedy] for remedy in ("fixed", "dropped", "unchanged")},
                    "example": str(found[0]),
                }
            )
    return rows


def to_json(report: Report) -> dict[str, Any]:
    """The whole report as plain values."""
    splits = {
        name: {"images": len(raw), "annotations": len(raw.ids), "categories": len(raw.class_names)}
        for name, raw in report.splits.items()
    }
    return {
        "splits": splits,
        "notes": {name: raw.notes for name, raw in report.splits.items() if raw.notes},
        "summary": summary(report),
        "findings": [finding_to_json(finding) for finding in report.findings],
    }


def finding_to_json(finding: IssueReport) -> dict[str, Any]:
    """Plain values; null for what is not finite, which JSON has no word for."""
    box = finding.box and [value if math.isfinite(value) else None for value in finding.box]
    return {
        **vars(finding), "issue": finding.issue.name, "severity": finding.issue.severity, "box": box,
        "text": str(finding),
    }  # fmt: skip


def print_report(report: Report) -> None:
    """The table, and the first findings in words."""
    console = Console(width=None if os.isatty(1) else 160, highlight=False, markup=False, emoji=False)
    for name, raw in report.splits.items():
        print(f"{name}: {len(raw)} images, {len(raw.ids)} annotations, {len(raw.class_names)} categories")
        for note in raw.notes:
            print(f"note: {name}: {note}")
    rows = summary(report)
    if not rows:
        print("no issue found")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("issue", "", "count", "on_invalid=fix", "the first"):
        table.add_column(title, justify="right" if title == "count" else "left", no_wrap=title != "the first")
    for row in rows:
        remedy = ", ".join(f"{row[key]} {key}" for key in ("fixed", "dropped") if row[key])
        table.add_row(row["issue"], row["severity"], str(row["count"]), remedy or "unchanged", row["example"])
    console.print(table)
    num_errors = sum(row["count"] for row in rows if row["severity"] == "error")
    print(f"\n{num_errors} errors, {sum(row['count'] for row in rows) - num_errors} warnings")
