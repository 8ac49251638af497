"""`--multirun`: the same command over several values, driven by Hydra's own sweepers and launchers, and one table.

Each run has a folder of its own. Plugins of Hydra work as they do elsewhere: `hydra/launcher=submitit_slurm`,
`hydra/sweeper=optuna` (docs/scaling.md).
"""

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from tasks.cli.compose import compose
from tasks.cli.config_store import register
from tasks.cli.errors import user_sentence
from tasks.cli.folders import CONFIGS, config_groups
from tasks.cli.keys import has_text
from tasks.cli.output import Found, say_result
from tasks.cli.tables import Column, table
from tasks.cli.words import first_values
from tasks.files import write_csv, write_text
from tasks.folders import check_free, new_folder
from tasks.zoo.registry import TASKS, lookup

QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null")
FORCED = "++"  # Hydra then takes any key; whether it is known was checked before
FOLDER = "hydra.sweep.dir"


def sweep(
    config_name: str, overrides: list[str], script: list[str], run: Callable[[DictConfig], Found]
) -> Found:
    """Calls `run` for every combination of the values in `overrides` (`optimizer.lr=0.01,0.02`), prints one table and
    writes it; the exit status is 1 where a run failed.

    `script` is what a Python interpreter runs for the command, as each run keeps it; `run` gets the configuration.
    """
    of_hydra = [override for override in overrides if override.startswith(("hydra.", "hydra/"))]
    given = next((word.split("=", 1)[1] for word in of_hydra if word.startswith(f"{FOLDER}=")), None)
    if given is not None:
        check_free(Path(given), FOLDER)
    fixed, for_hydra = split_words(
        config_name, [override for override in overrides if override not in of_hydra]
    )
    folder = new_folder("sweep") if given is None else Path(given)
    same = {word.removeprefix(FORCED) for word in for_hydra}

    def run_one(_: DictConfig) -> float:
        """One run; what an optimising sweeper goes by."""
        job = HydraConfig.get()
        number, chosen = str(job.job.num), [override.removeprefix(FORCED) for override in job.overrides.task]
        place = Path(job.sweep.dir) / number
        place.parent.mkdir(parents=True, exist_ok=True)
        varied = [override for override in chosen if override not in same]
        changed = dict(override.lstrip("+").split("=", 1) for override in varied)
        print(f"run {number}: {' '.join(varied)}", flush=True)
        overrides = [*chosen, *fixed, f"run_dir={place}"]
        status, monitor = "done", ""
        of_sweep, sys.argv = sys.argv, [*script, *overrides]
        try:
            config = compose(config_name, overrides)
            monitor = lookup(TASKS, "task", config.task.name).monitor
            if stopped := run(config).status:
                status = f"stopped ({stopped})"
        except Exception as error:
            status = f"failed ({type(error).__name__})"
            told = user_sentence(error)
            print(f"error: {told}" if told is not None else traceback.format_exc(), file=sys.stderr)
        finally:
            sys.argv = of_sweep
        numbers = json.loads((place / "metrics.json").read_text()) if status == "done" else {}
        result = {"run": number, **changed, "status": status, "monitor": monitor, "metrics": numbers}
        write_text(place.parent / f"{number}.json", json.dumps(result))
        return numbers.get(monitor, float("nan"))

    register()
    arguments = sys.argv
    in_folder = [] if given is not None else [f"{FOLDER}={folder}"]
    sys.argv = [arguments[0], "--multirun", *for_hydra, *of_hydra, *QUIET, *in_folder]
    try:
        hydra.main(config_path=str(CONFIGS), config_name=config_name, version_base="1.3")(run_one)()
    finally:
        sys.argv = arguments
    results = [json.loads(path.read_text()) for path in folder.glob("*.json") if path.stem.isdecimal()]
    results.sort(key=lambda result: int(result["run"]))
    header, *rows = table_rows(results)
    write_csv(folder / "sweep.csv", header, rows)
    columns = [Column(title, right=True) for title in header]
    say_result(f"\n{table(columns, rows)}\n\n{folder}: sweep.csv and a folder for each run")
    has_failed = any(result["status"] != "done" for result in results)
    return Found({"folder": folder, "runs": results}, int(has_failed))


def split_words(config_name: str, overrides: list[str]) -> tuple[list[str], list[str]]:
    """`overrides`, checked: those whose text is taken as it stands, which cannot have several values, and the others in
    the form that Hydra's sweepers take."""
    keys = [override.split("=", 1)[0] for override in overrides]
    if {"resume", "run_dir"} & set(keys):
        raise ValueError(
            "--multirun starts runs of its own: leave out resume and run_dir (hydra.sweep.dir=DIR)"
        )
    config = compose(config_name, [first_values(override) for override in overrides])
    groups = config_groups()
    fixed, for_hydra = [], []
    for key, override in zip(keys, overrides, strict=True):
        if has_text(config, key):
            fixed.append(override)
        else:
            is_known = key in groups or key.startswith(("+", "~"))
            for_hydra.append(override if is_known else f"{FORCED}{override}")
    return fixed, for_hydra


def table_rows(results: list[dict[str, Any]]) -> list[list[str]]:
    """A header and a row for each run: what was varied, the metric that decides first, and the next few."""
    own = ("run", "status", "monitor", "metrics")
    varied = list(dict.fromkeys(key for r in results for key in r if key not in own))
    names = list(dict.fromkeys(name for r in results for name in (r["monitor"], *r["metrics"])))[:4]
    body = [
        [
            r["run"],
            *(r.get(key, "") for key in varied),
            *(f"{r['metrics'][name]:.4f}" if name in r["metrics"] else "-" for name in names),
            r["status"],
        ]
        for r in results
    ]
    return [["run", *varied, *names, "status"], *body]
