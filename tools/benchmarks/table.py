"""The lines that benchmarks wrote, as one table in Markdown and in JSON.

python tools/benchmarks/table.py FOLDER      reads FOLDER/benchmark.jsonl, writes table.md and table.json beside it
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

COLUMNS = (
    "what",
    "ours",
    "torchvision's best",
    "its default",
    "times as fast",
    "images a second",
    "GB, theirs",
)


def main() -> None:
    """The command."""
    folder = Path(sys.argv[1])
    lines = [json.loads(line) for line in (folder / "benchmark.jsonl").read_text().splitlines()]
    rows = [row(line) for line in lines if "ms" in line]
    text = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    text += [f"| {' | '.join(cells)} |" for cells in rows]
    (folder / "table.md").write_text("\n".join(text) + "\n")
    (folder / "table.json").write_text(json.dumps(lines, indent=1))
    print("\n".join(text))


def row(line: dict[str, Any]) -> list[str]:
    """The cells of one benchmark: medians in ms."""
    setting = [str(line[key]) for key in ("model", "size") if key in line]
    setting += [f"{key} {line[key]}" for key in ("batch", "rois", "gts", "precision") if key in line]
    if line.get("compile"):
        setting.append("backbones compiled")
    times = {name: found["median"] for name, found in line["ms"].items()}
    best = next((name for name in times if "channels_last" in name and name.startswith("torchvision")), None)
    others = [name for name in times if not name.startswith("ours") and name != best]
    mine = [name for name in times if name.startswith("ours")] or [
        name for name in times if name not in others
    ]
    own, other = times[mine[-1]], min(times[name] for name in ([best] if best else others))
    peaks = line.get("peak_bytes") or {}
    return [
        f"{line['benchmark']} {', '.join(setting)}",
        f"{own:.1f} ms",
        f"{times[best]:.1f} ms" if best else "",
        f"{times[others[0]]:.1f} ms" if others else "",
        f"{other / own:.2f}",
        f"{line['batch'] * 1e3 / own:.0f}" if "batch" in line else "",
        f"{peaks[mine[-1]] / 1e9:.1f}, {peaks[best or others[0]] / 1e9:.1f}" if peaks else "",
    ]


if __name__ == "__main__":
    main()
