"""The model card: README.md with YAML metadata as the Hugging Face hub reads it, from what a model file says itself.

What the file does not say (what the model is for, where its data comes from) stands there as a line to be filled in; no
sentence is made up.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from backbones.weights import WEIGHTS
from tasks.zoo.model_file import Header

MARK = "<!-- written by vertebra card -->"
"""By which a card is known as one that may be written over."""
PIPELINES = {
    "classification": "image-classification",
    "detection": "object-detection",
    "instance_segmentation": "image-segmentation",
    "semantic_segmentation": "image-segmentation",
}
"""The hub's names of the tasks."""
HUB_LICENCES = {
    "Apache-2.0": "apache-2.0",
    "BSD-3-Clause": "bsd-3-clause",
    "CC-BY-4.0": "cc-by-4.0",
    "CC-BY-SA-4.0": "cc-by-sa-4.0",
    "CC-BY-NC-4.0": "cc-by-nc-4.0",
    "CC0-1.0": "cc0-1.0",
    "GPL-3.0": "gpl-3.0",
    "AGPL-3.0": "agpl-3.0",
    "MIT": "mit",
}
"""By SPDX's identifiers; any other is `other` there, under its own name."""
UNKNOWN = "not stated"
MAX_NAMED = 100
"""Classes that are listed."""


@dataclass(frozen=True)
class Beside:
    """What is known beside the model file."""

    name: str
    """What the card calls the model."""
    licence: str | None = None
    """SPDX's identifier; None where nobody has said."""
    data: str | None = None
    """What the model was trained and scored on, in words or as a name of the hub."""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """Of metrics.json, with the ends of intervals under `interval_low/` and `interval_high/` and the number of
    `images`; empty where there is none, and then those of the header count."""
    picture: str | None = None
    """File name of a picture that shows predictions."""
    file: str = "model.safetensors"
    """Name of the model file."""


def write_card(header: Header, beside: Beside) -> str:
    """The text of README.md."""
    metadata = to_yaml(metadata_of(header, beside))
    model, task = header.model, header.task.replace("_", " ")
    backbone = str(model["backbone"]["name"])
    sections = [
        f"# {in_line(beside.name)}",
        f"`{model['name']}` on `{backbone}` for {task}, {len(header.class_names)} classes, made with vertebra.",
        *([f"![What it finds]({beside.picture})"] if beside.picture else []),
        "## How to use it",
        "```python\nimport tasks\n\n"
        f'predictor = tasks.load_predictor("{beside.file}")\nfound = predictor("photo.jpg")\n```',
        'It needs `pip install "vertebra[train]"`, and no configuration. Opening the file runs no code.',
        "## What it is for",
        "_To be filled in: what it was made for, and what it should not be used for._",
        "## Classes",
        classes_of(header),
        "## Data",
        data_of(header, beside),
        "## How good it is",
        metrics_of(header, beside),
        "## Preprocessing",
        "Done by the predictor, from the file:",
        table(("setting", "value"), sorted(header.preprocessing.items())),
        "## Where it comes from",
        table(("", ""), provenance_of(header)),
        "## Licence",
        licence_of(header, beside),
        MARK,
    ]
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def metadata_of(header: Header, beside: Beside) -> dict[str, Any]:
    """What the hub reads: licence, task, tags, and metrics as a model index."""
    licence = HUB_LICENCES.get(beside.licence or "", "other")
    about = {
        "license": licence,
        **({"license_name": slug(beside.licence or UNKNOWN)} if licence == "other" else {}),
        "library_name": "vertebra",
        "pipeline_tag": PIPELINES[header.task],
        "tags": [
            "vertebra",
            *map(slug, (header.task, header.model["name"], header.model["backbone"]["name"])),
        ],
    }
    numbers = headline(header, beside)
    if not numbers:
        return about
    data = beside.data or str(header.provenance.get("data", UNKNOWN))
    result = {
        "task": {"type": PIPELINES[header.task]},
        "dataset": {"name": data, "type": slug(data)},
        "metrics": [{"type": slug(name), "name": name, "value": value} for name, value in numbers.items()],
    }
    return {**about, "model-index": [{"name": beside.name, "results": [result]}]}


def headline(header: Header, beside: Beside) -> dict[str, float]:
    """Metrics of all classes together, those that are numbers."""
    numbers = beside.numbers or header.metrics
    return {
        name: value
        for name, value in numbers.items()
        if "/" not in name and name != "images" and isinstance(value, int | float) and math.isfinite(value)
    }


def metrics_of(header: Header, beside: Beside) -> str:
    """A table of the metrics, with their intervals where they are known."""
    numbers = headline(header, beside)
    if not numbers:
        return "It has not been evaluated."
    known = beside.numbers
    rows = []
    for name, value in numbers.items():
        low, high = (known.get(f"interval_{end}/{name}") for end in ("low", "high"))
        interval = "" if low is None or high is None else f"{low:.3f} to {high:.3f}"
        rows.append((name, f"{value:.3f}", interval))
    has_intervals = any(row[2] for row in rows)
    columns = ("metric", "value", "95 % interval") if has_intervals else ("metric", "value")
    images = f" On {int(known['images'])} images." if "images" in known else ""
    cells = table(columns, [row[: len(columns)] for row in rows])
    return f"{cells}\n\nOf the last evaluation of these weights.{images}"


def classes_of(header: Header) -> str:
    """Names and ids of the classes."""
    rows = list(zip(header.class_names, header.category_ids, strict=True))
    listed = table(
        ("label", "class", "id in the data"), [(k, *row) for k, row in enumerate(rows[:MAX_NAMED])]
    )
    more = len(rows) - MAX_NAMED
    return listed if more <= 0 else f"{listed}\n\n… and {more} more, which the file names."


def data_of(header: Header, beside: Beside) -> str:
    """What is known of the data."""
    if beside.data:
        return f"Trained on {in_line(beside.data)}."
    known = header.provenance.get("data")
    read_by = f" Read by `{in_code(known)}`." if known else ""
    return f"_To be filled in: which data it was trained on, and under which licence._{read_by}"


def provenance_of(header: Header) -> list[tuple[str, str]]:
    """What the file says of its origin, and the licences of the weights that it began with."""
    known = header.provenance
    rows = [(parent, f"licence: {licence}") for parent, licence in parents_of(header)]
    rows += [(f"{key}", str(known[key])) for key in ("seed", "steps") if key in known]
    versions = known.get("versions")
    if isinstance(versions, Mapping):
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in versions.items())))
    return rows or [("origin", UNKNOWN)]


def parents_of(header: Header) -> list[tuple[str, str]]:
    """Weights that these began with, each with its licence as far as it is known."""
    known, found = header.provenance, []
    backbone, pretrained = str(header.model["backbone"]["name"]), str(known.get("pretrained", False))
    if known.get("published"):
        found.append((f"published weights {pretrained}", str(known.get("licence", UNKNOWN))))
    elif pretrained not in ("False", "None"):
        entries = WEIGHTS.get(backbone, {})
        tag = list(entries)[-1] if pretrained == "True" and entries else pretrained
        licence = entries[tag].licence if tag in entries else UNKNOWN
        found.append((f"backbone {backbone} from {PurePath(tag).name}", licence))
    started = known.get("init_from")
    if isinstance(started, Mapping):
        what = " ".join(PurePath(str(started[key])).name for key in ("model", "pretrained") if key in started)
        found.append((f"started from {what}", str(started.get("licence", UNKNOWN))))
    return found


def licence_of(header: Header, beside: Beside) -> str:
    """The licence of the model, and what its parents ask for."""
    own = (
        f"{in_line(beside.licence)}."
        if beside.licence
        else "_To be filled in: no licence was stated for this model._"
    )
    parents = "".join(f"\n- {in_line(parent)}: {in_line(licence)}" for parent, licence in parents_of(header))
    return f"{own}\n\nIt contains what was learnt from:{parents}" if parents else own


def table(columns: tuple[str, ...], rows: Any) -> str:
    """A table of Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(in_line(cell) for cell in line)} |" for line in lines)


def in_line(value: object) -> str:
    """A value as Markdown's plain text on one line: nothing in it is a link, a tag or the border of a cell."""
    text = " ".join(str(value).split())
    return re.sub(r"([\\`*_\[\]<>|!&#])", r"\\\1", text) if text != "---" else text


def in_code(value: object) -> str:
    """A value between backticks."""
    return " ".join(str(value).split()).replace("`", "'")


def slug(value: object) -> str:
    """A word of small letters, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", str(value).lower()).strip("-") or "unnamed"


def to_yaml(values: Mapping[str, Any]) -> str:
    """As YAML, in the order given."""
    import yaml

    return yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True, width=1000)
