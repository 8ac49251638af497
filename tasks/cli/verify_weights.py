"""Every published file of weights scored on the data it was published for: the published figure beside ours."""

import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from omegaconf import DictConfig

from backbones import WEIGHTS
from backbones.checks import suggest
from tasks.classification.published import published_classifier
from tasks.cli.data import data_of
from tasks.cli.errors import user_sentence
from tasks.cli.nodes import as_list, plain
from tasks.cli.output import Found, say_result
from tasks.cli.settings import settings_of
from tasks.cli.terminal import Terminal, prepare
from tasks.data.annotations.objects import Annotations
from tasks.data.sources import Source
from tasks.files import write_json
from tasks.folders import claim_folder, new_folder
from tasks.harness.evaluate import evaluate
from tasks.harness.settings import EvaluateSettings
from tasks.preprocessing import Preprocessing
from tasks.zoo.pretrained import PUBLISHED, published_model

CLASSIFIERS = ("resnet", "resnext", "wide_resnet")


@dataclass
class Verification:
    """One file of weights, with numbers in 0 … 1."""

    model: str
    tag: str
    published: dict[str, float]
    ours: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    """Why there are none of ours."""


def verify(config: DictConfig) -> Found:
    """Scores what `config` names and prints the table, which `verification.json` keeps; the exit status is 1 where
    some weights could not be scored: the others are scored all the same."""
    prepare(settings_of(EvaluateSettings, config).trainer.device)
    data = data_of(config)
    has_objects = isinstance(data.split(config.split).annotations, Annotations)
    rows = list(detectors() if has_objects else classifiers())
    if config.only is not None:
        wanted = as_list(config.only)
        known = {row.model for row in rows}
        if unknown := [name for name in wanted if name not in known]:
            raise ValueError(
                f"only={unknown[0]}: no published weights of that name can be scored on this data; "
                f"{suggest(unknown[0], known)}"
            )
        rows = [row for row in rows if row.model in wanted]
    folder = claim_folder(Path(config.run_dir), "run_dir") if config.run_dir else new_folder("verify_weights")
    for row in rows:
        print(f"\n{row.model} {row.tag}", flush=True)
        try:
            score(row, config, data, folder / f"{row.model}-{row.tag}")
        except Exception as error:
            row.error = user_sentence(error)
            if row.error is None:
                raise
            print(f"error: {row.error}", file=sys.stderr)
        write_json(folder / "verification.json", [asdict(row) for row in rows])
    say_result(f"\n{table(rows)}\n\n{folder}")
    found = {"weights": [asdict(row) for row in rows], "folder": folder}
    return Found(found, int(any(row.error for row in rows)))


def detectors() -> Iterator[Verification]:
    """All published models of objects."""
    for name, tags in PUBLISHED.items():
        for tag, entry in tags.items():
            yield Verification(name, tag, dict(entry.metrics))


def classifiers() -> Iterator[Verification]:
    """All published ResNets and relatives that were scored with the resizing that there is."""
    for name, tags in WEIGHTS.items():
        for tag, entry in tags.items():
            if name.startswith(CLASSIFIERS) and entry.top1 is not None and entry.interpolation == "bilinear":
                yield Verification(name, tag, {"top1": round(entry.top1 / 100, 5)})


def score(row: Verification, config: DictConfig, data: Source, folder: Path) -> None:
    """Evaluates the weights of `row` into `folder` and fills in the numbers."""
    preprocessing = Preprocessing(**plain(config.preprocessing))
    if row.model in PUBLISHED:
        model = published_model(
            {"name": row.model}, row.tag, preprocessing=preprocessing, class_names=data.class_names
        )
    else:
        backbone = {"name": row.model, "pretrained": row.tag}
        model = published_classifier(backbone, preprocessing, data.class_names)
    settings = settings_of(EvaluateSettings, config)
    found = evaluate(model, data, split=config.split, settings=settings, folder=folder, reporter=Terminal())
    row.ours = {name: found.numbers[name] for name in row.published}


def table(rows: list[Verification]) -> str:
    """Percentages: a line for each number of each file."""
    lines = [f"{'model':<18} {'weights':<14} {'metric':<8} {'published':>9} {'ours':>7} {'difference':>10}"]
    for row in rows:
        for metric, published in row.published.items():
            start = f"{row.model:<18} {row.tag:<14} {metric:<8} {100 * published:>9.1f}"
            if metric in row.ours:
                ours = row.ours[metric]
                lines.append(f"{start} {100 * ours:>7.1f} {100 * (ours - published):>+10.1f}")
            else:
                lines.append(f"{start} {'-':>7} {'-':>10}  ({row.error or 'not scored'})")
    return "\n".join(lines)
