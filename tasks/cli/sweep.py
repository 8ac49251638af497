"""`--multirun`: the same tool over several values, driven by Hydra's own sweepers and launchers, and one table.

Each run is the tool's own command in a process and a folder of its own. Plugins of Hydra work as they do
elsewhere: `hydra/launcher=submitit_slurm`, `hydra/sweeper=optuna` (docs/scaling.md).
"""

import csv
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tasks.cli.compose import CONFIGS, hydra_words
from tasks.files import write_text
from tasks.zoo.registry import TASKS, lookup

QUIET = ("hydra/job_logging=disabled", "hydra/hydra_logging=disabled", "hydra.output_subdir=null")


def sweep(config_name: str, words: list[str]) -> int:
    """Runs this tool for every combination of the values in `words` (`optimizer.lr=0.01,0.02`), prints one table
    and writes it; the exit status, 1 where a run failed."""
    tool = str(Path(sys.argv[0]).resolve())
    folder = Path("runs") / f"sweep-{time.strftime('%Y%m%d-%H%M%S')}"
    of_hydra = [word for word in words if word.startswith(("hydra.", "hydra/"))]
    folder = next(
        (Path(word.split("=", 1)[1]) for word in of_hydra if word.startswith("hydra.sweep.dir=")), folder
    )
    if folder.is_dir() and any(folder.iterdir()):
        raise FileExistsError(
            f"hydra.sweep.dir={folder} is not empty; give another folder, or delete this one"
        )
    settings = hydra_words(config_name, [word for word in words if word not in of_hydra])

    def run(config: DictConfig) -> float:
        """One run; what an optimising sweeper goes by."""
        job = HydraConfig.get()
        number, overrides = str(job.job.num), list(job.overrides.task)
        place = Path(job.sweep.dir) / number
        place.parent.mkdir(parents=True, exist_ok=True)
        changed = dict(word.lstrip("+").split("=", 1) for word in overrides if word not in settings)
        print(f"run {number}: {' '.join(f'{k}={v}' for k, v in changed.items())}", flush=True)
        status = subprocess.run([sys.executable, tool, *overrides, f"run_dir={place}"]).returncode
        monitor = lookup(TASKS, "task", config.task.name).monitor
        numbers = json.loads((place / "metrics.json").read_text()) if not status else {}
        result = {"run": number, **changed, "status": "done" if not status else f"failed ({status})"}
        write_text(
            place.parent / f"{number}.json", json.dumps({**result, "monitor": monitor, "metrics": numbers})
        )
        return numbers.get(monitor, float("nan"))

    sys.argv = [tool, "--multirun", *settings, *of_hydra, *QUIET]
    if not any(word.startswith("hydra.sweep.dir=") for word in of_hydra):
        sys.argv.append(f"hydra.sweep.dir={folder}")
    hydra.main(config_path=str(CONFIGS), config_name=config_name, version_base="1.3")(run)()
    results = [json.loads(path.read_text()) for path in folder.glob("*.json") if path.stem.isdecimal()]
    results.sort(key=lambda result: int(result["run"]))
    rows = table_rows(results)
    with open(folder / "sweep.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    print(f"\n{aligned(rows)}\n\n{folder}: sweep.csv and a folder for each run")
    return int(any(result["status"] != "done" for result in results))


def table_rows(results: list[dict[str, Any]], *, num_metrics: int = 4) -> list[list[str]]:
    """A header and a row for each run: what was varied, the metric that decides first, and the next few."""
    varied = list(
        dict.fromkeys(key for r in results for key in r if key not in ("run", "status", "monitor", "metrics"))
    )
    names = list(dict.fromkeys(name for r in results for name in (r["monitor"], *r["metrics"])))[:num_metrics]
    header = ["run", *varied, *names, "status"]
    body = [
        [
            r["run"],
            *(r.get(key, "") for key in varied),
            *(f"{r['metrics'][name]:.4f}" if name in r["metrics"] else "-" for name in names),
            r["status"],
        ]
        for r in results
    ]
    return [header, *body]


def aligned(rows: list[list[str]]) -> str:
    """The rows as a table for the terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )
