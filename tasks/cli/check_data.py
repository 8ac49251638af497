"""The doctor's report as a table for the terminal, as JSON and as a page with pictures."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tasks.cli.data import told_data_of
from tasks.cli.output import Found, say_result
from tasks.cli.tables import Column, table
from tasks.data.quality.html_report import page
from tasks.data.quality.issues import ISSUES, IssueReport
from tasks.data.quality.picture_report import examine_pictures
from tasks.data.quality.report import Examined, Report, examine
from tasks.data.sources import ClassMapSource, LabelSource
from tasks.files import write_text
from tasks.folders import new_folder
from tasks.preprocessing import Preprocessing


def check_data(config: DictConfig) -> Found:
    """Examines `config.data` and leaves a report; the exit status is 1 where there is an error."""
    source = told_data_of(config)
    if isinstance(source, LabelSource | ClassMapSource):
        report = examine_pictures(source)
    else:
        report = examine(source.with_files(), Preprocessing(**config.preprocessing))
    folder = new_folder("check_data") if config.run_dir is None else Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "report.json", json.dumps(to_json(report), indent=1, ensure_ascii=False) + "\n")
    write_text(folder / "report.html", page(report, config.pictures))
    say_result(f"{in_words(report)}\n\n{folder}: report.html, report.json")
    files = {"folder": str(folder), "files": ["report.html", "report.json"]}
    return Found({**to_json(report), **files}, int(report.has_errors))


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
    splits = {name: counts(split) for name, split in report.splits.items()}
    return {
        "splits": splits,
        "notes": {name: split.notes for name, split in report.splits.items() if split.notes},
        "summary": summary(report),
        "findings": [finding_to_json(finding) for finding in report.findings],
    }


def counts(split: Examined) -> dict[str, int]:
    """Images, annotations where these are objects, and categories."""
    found = {"images": split.num_images}
    if split.objects is not None:
        found["annotations"] = len(split.objects.ids)
    return {**found, "categories": len(split.class_names)}


def finding_to_json(finding: IssueReport) -> dict[str, Any]:
    """Plain values; null for what is not finite, which JSON has no word for."""
    box = finding.box and [value if math.isfinite(value) else None for value in finding.box]
    return {
        **vars(finding), "issue": finding.issue.name, "severity": finding.issue.severity, "box": box,
        "text": str(finding),
    }  # fmt: skip


def in_words(report: Report) -> str:
    """What is there, and a line for each kind of issue with the first of them."""
    lines = []
    for name, split in report.splits.items():
        lines.append(f"{name}: {', '.join(f'{count} {what}' for what, count in counts(split).items())}")
        lines += [f"note: {name}: {note}" for note in split.notes]
    rows = summary(report)
    if not rows:
        return "\n".join([*lines, "no issue found"])
    cells = []
    for row in rows:
        remedy = ", ".join(f"{row[key]} {key}" for key in ("fixed", "dropped") if row[key])
        done = [remedy or "unchanged"] if report.has_policy else []
        cells.append((row["issue"], row["severity"], str(row["count"]), *done, row["example"]))
    num_errors = sum(row["count"] for row in rows if row["severity"] == "error")
    num_warnings = sum(row["count"] for row in rows) - num_errors
    done = ["on_invalid=fix"] if report.has_policy else []
    columns = ["issue", "", Column("count", right=True), *done, "the first"]
    totals = f"{counted(num_errors, 'error')}, {counted(num_warnings, 'warning')}"
    return "\n".join([*lines, table(columns, cells), "", totals])


def counted(number: int, what: str) -> str:
    """`1 error`, `2 errors`."""
    return f"{number} {what}{'s' * (number != 1)}"
