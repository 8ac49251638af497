"""`vertebra compare`: trained models of one data set side by side, whether one is better, and what they cost."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cli.nodes import as_list, plain, whole_number
from tasks.cli.output import Found, say_result, write_rows
from tasks.cli.tables import Column, table

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch
    from omegaconf import DictConfig

    from tasks.contracts import Batch

NOTES = """AP and other figures are those that training ended with. The rest is measured here,
each model in a process of its own, with the images and precision of its run:
multiply-adds of convolutions and matrix products of one image's prediction;
images a second from batch to predictions, the median of {repeats} batches; memory
beyond the model itself, of predicting a batch and of a training step."""
REPEATS = 9
OUTCOMES = "outcomes.npz"
MAIN_NUMBERS = ("AP", "AP50", "AP75", "mask_AP", "top1", "mean_class_accuracy", "mean_iou")
"""What a comparison says, as far as both have it."""
COLUMNS = (
    "model",
    "backbone",
    "figure",
    *(
        Column(title, right=True)
        for title in (
            "param-\neters,\nM",
            "multiply-\nadds,\nG",
            "images\na second",
            "predict-\ning,\nMiB",
            "train-\ning,\nMiB",
        )
    ),
)


def compare(config: DictConfig) -> Found:
    """Measures the models of `config.runs` and prints a table of them, then whether they differ by more than their
    images let them, and writes `config.json` if it is set. Folders of evaluations have no costs."""
    runs = [Path(str(run)) for run in as_list(config.runs)]
    if not runs:
        raise ValueError("runs=[] names no runs; give their folders")
    batch = whole_number(config, "batch", least=1)
    if type(config.costs) is not bool:
        raise ValueError(f"costs={config.costs} must be true or false")
    are_evaluations = all((run / OUTCOMES).is_file() and not (run / "config.yaml").is_file() for run in runs)
    rows: list[dict[str, Any]] = []
    if config.costs and not are_evaluations:
        for run in runs:
            check_run(run)
        rows = [in_own_process(run, str(config.device), batch) for run in runs]
        say_result(f"{cost_table(rows)}\n\n{NOTES.format(repeats=REPEATS)}")
    lines, found = differences(runs)
    if lines:
        say_result("\n" * bool(rows) + "\n".join(lines))
    write_rows(config.json, rows)
    return Found({"costs": rows, "differences": found, "words": lines})


def differences(runs: list[Path]) -> tuple[list[str], list[dict[str, Any]]]:
    """A line for each two settings of which all `runs` left what happened on each image, and the same as numbers."""
    from tasks.metrics.comparison import compare as compare_outcomes
    from tasks.metrics.comparison import verdict
    from tasks.metrics.outcomes import read_outcomes

    if len(runs) < 2:
        return [], []
    lacking = [str(run) for run in runs if not (run / OUTCOMES).is_file()]
    if lacking:
        return [
            f"Whether one is better cannot be said: {', '.join(lacking)} lacks {OUTCOMES}, which `vertebra report RUN` "
            "makes for runs of earlier versions"
        ], []
    settings: dict[str, list[Path]] = {}
    for run in runs:
        settings.setdefault(setting(run), []).append(run)
    scored = {run: read_outcomes(run) for run in runs}
    lines = [
        f"{' and '.join(map(str, group))}: one setting with {len(group)} seeds"
        for group in settings.values()
        if len(group) > 1
    ]
    numbers: list[dict[str, Any]] = []
    for first, second in itertools.combinations(settings.values(), 2):
        found = compare_outcomes([scored[run] for run in first], [scored[run] for run in second])
        names = [name for name in MAIN_NUMBERS if name in found] or list(found)[:1]
        numbers += [
            {
                "name": name,
                "first": {"runs": first, "value": difference.first},
                "second": {"runs": second, "value": difference.second},
                "difference": difference.value,
                "interval": difference.ends,
                "images": difference.num_images,
                "is_clear": difference.is_clear,
            }
            for name, difference in found.items()
        ]
        titles = [
            str(group[0]) if len(group) == 1 else f"{group[0]} and its seeds" for group in (first, second)
        ]
        lines += [verdict(name, found[name], *titles) for name in names]
    if len(settings) == 1:
        lines.append("There is one setting alone, so nothing to compare: give runs of another")
    elif all(len(group) == 1 for group in settings.values()):
        lines.append(
            "Intervals are for other images of the kind, not for other seeds: runs that differ in seed alone are joined"
        )
    return lines, numbers


def setting(run: Path) -> str:
    """What tells the setting of a run from others: its configuration without seed and folder; else its folder."""
    from tasks.cli.run_config import load_config

    if not (run / "config.yaml").is_file():
        return str(run.resolve())
    config = plain(load_config(run / "config.yaml"))
    return json.dumps(
        {k: v for k, v in config.items() if k not in ("seed", "run_dir", "logger")}, sort_keys=True
    )


def check_run(run: Path) -> None:
    """Raises `ValueError` unless `run` is the folder of a run that has ended."""
    missing = [n for n in ("config.yaml", "metrics.json", "model.safetensors") if not (run / n).is_file()]
    if missing:
        raise ValueError(
            f"{run} has no {' and no '.join(missing)}; give folders of runs of `vertebra train` that have ended"
        )


def in_own_process(run: Path, device: str, batch: int) -> dict[str, Any]:
    """`measure` where no other model has left memory behind."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, run, device, batch).result()


def measure(run: Path, device_name: str, batch_size: int) -> dict[str, Any]:
    """What the model of `run` found and costs."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from backbones.spec import title
    from tasks.cli.data import data_of
    from tasks.cli.run_config import load_config
    from tasks.data.datamodule import DataModule
    from tasks.devices import autocast, resolve_device, resolve_precision
    from tasks.preprocessing import Preprocessing
    from tasks.zoo.model_file import load_model
    from tasks.zoo.registry import TASKS, lookup

    device = resolve_device(device_name)
    config = load_config(run / "config.yaml")
    model = load_model(run / "model.safetensors")
    header = model.header
    kind = lookup(TASKS, "task", header.task)
    source, preprocessing = data_of(config), Preprocessing(**header.preprocessing)
    one, batch = (
        next(iter(DataModule(source, preprocessing, batch_size=n, **kind.data_options).val_dataloader())).to(
            device
        )
        for n in (1, batch_size)
    )
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    precision = resolve_precision(config.precision, device)

    @torch.inference_mode()
    def predict(images: Batch) -> None:
        with autocast(precision, device):
            model(images)

    def step() -> None:
        with autocast(precision, device):
            loss = torch.stack(list(model.losses(model.features(batch), batch).values())).sum()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    with FlopCounterMode(display=False) as counter:
        predict(one)
    predict(batch)
    predicting = peak(lambda: predict(batch), device)
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        predict(batch)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0)
    training = peak(step, device)
    return {
        "run": str(run),
        "model": header.model["name"],
        "backbone": title(header.model["backbone"]),
        "monitor": kind.monitor,
        "metrics": json.loads((run / "metrics.json").read_text()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
        "images_a_second": len(batch) / statistics.median(seconds),
        "batch": len(batch),
        "height": batch.images.shape[2],
        "width": batch.images.shape[3],
        "predicting_bytes": predicting,
        "training_bytes": training,
        "precision": precision,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "torch": torch.__version__,
    }


def peak(work: Callable[[], object], device: torch.device) -> int:
    """The most bytes that `work` holds beyond what was held before."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark becomes what is held now
    before = _kilobytes(status.read_text(), "VmRSS")
    work()
    return (_kilobytes(status.read_text(), "VmHWM") - before) * 1024


def _kilobytes(status: str, name: str) -> int:
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{name}:"))


def cost_table(rows: list[dict[str, Any]]) -> str:
    """A line for each model."""
    cells = [
        (
            row["model"],
            row["backbone"],
            f"{row['monitor']} {row['metrics'][row['monitor']]:.3f}",
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['multiply_adds'] / 1e9:.2f}",
            f"{row['images_a_second']:.1f}",
            f"{row['predicting_bytes'] / 2**20:.0f}",
            f"{row['training_bytes'] / 2**20:.0f}",
        )
        for row in rows
    ]
    row = rows[0]
    return (
        f"{table(COLUMNS, cells)}\n\nBatches of {row['batch']} at {row['height']}x{row['width']}, {row['precision']}, "
        f"{row['device']}, torch {row['torch']}."
    )
