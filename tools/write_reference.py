"""Writes what the documentation repeats of the code: `python tools/write_reference.py`.

That is docs/reference/settings.md, where dataclasses of settings and docstrings say what each setting means, and the
programs of examples/ in the pages that show them (below a line `<!-- examples/NAME.py -->`). `tests/test_docs.py`
compares the pages with what this program writes.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from backbones.create import BUILDERS, find_builder  # noqa: E402
from backbones.pyramids import PYRAMIDS  # noqa: E402
from backbones.spec import default_options  # noqa: E402
from tasks.cli.groups import WORDS, field_documents  # noqa: E402
from tasks.cli.keys import parts  # noqa: E402
from tasks.cli.targets import arguments  # noqa: E402
from tasks.data import FORMATS  # noqa: E402
from tasks.data.formats.object_files import ObjectFiles  # noqa: E402
from tasks.harness.settings import TrainSettings  # noqa: E402
from tasks.zoo.registry import known_options, lookup, model_builder  # noqa: E402
from tasks.zoo.task_specs import MODEL_SPECS  # noqa: E402

DOCS = ROOT / "docs"
EXAMPLE = re.compile(r"<!-- (examples/\w+\.py) -->\n```python\n.*?```", re.DOTALL)
IN_A_PART = {*parts(), "augmentation", "loggers", "optimizer", "schedule", "model", "task"}
FAMILIES = ("resnet50", "resnet", "cifar_resnet20", "vgg16", "timm", "torchvision")


def pages() -> dict[Path, str]:
    """Every page that repeats code, as it should read."""
    found = {DOCS / "reference" / "settings.md": settings_page()}
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text(encoding="utf-8")
        if EXAMPLE.search(text):
            found[path] = EXAMPLE.sub(_example, text)
    return found


def _example(place: re.Match[str]) -> str:
    code = (ROOT / place[1]).read_text(encoding="utf-8")
    return f"<!-- {place[1]} -->\n```python\n{code}```"


def settings_page() -> str:
    """The page of settings."""
    lines = [
        "# Settings",
        "",
        "Written by `python tools/write_reference.py` from the code that reads them. On the command line each is",
        "`key=value`; in Python they are the fields of `tasks.TrainSettings` and of what it holds, and arguments of",
        "`tasks.data.open` and of models.",
        "",
        "## A run",
        *_table(_fields(TrainSettings, "", IN_A_PART)),
    ]
    for name, kind in parts().items():
        lines += ["", f"## `{name}`", *_table(_fields(kind, f"{name}."))]
    lines += ["", "## Models", "", "`model=NAME` and, beside it, `model.KEY=value`."]
    for name in MODEL_SPECS:
        lines += ["", f"### `model={name}`", *_table(_model(name))]
    lines += [
        "",
        "## Backbones",
        "",
        "`backbone=NAME` and `backbone.KEY=value`, besides `backbone.pretrained`.",
    ]
    lines += ["", f"Names: {', '.join(f'`{name}`' for name in BUILDERS)}."]
    for name in FAMILIES:
        lines += ["", f"### `backbone={name}`", *_table(_options(find_builder(name), "backbone."))]
    lines += ["", "## Pyramids", "", "`pyramid=NAME` and `pyramid.KEY=value`."]
    for name, builder in PYRAMIDS.items():
        lines += ["", f"### `pyramid={name}`", *_table(_options(builder, "pyramid."))]
    lines += ["", "## Data", "", "`data=NAME` and `data.KEY=value`, or `tasks.data.open(NAME, KEY=value)`."]
    for name in FORMATS:
        kind = lookup(FORMATS, "format", name)
        found = arguments(FORMATS[name].replace(":", "."))
        lines += ["", f"### `data={name}`", *_table(_arguments(kind, found))]
    return "\n".join(lines) + "\n"


Row = tuple[str, str, str]


def _table(rows: Iterator[Row]) -> Iterator[str]:
    rows = iter(sorted(rows, key=lambda row: row[2] == ""))  # those without a word of explanation last
    yield from ("", "| setting | default | meaning |", "|---|---|---|")
    for setting, default, meaning in rows:
        yield f"| `{setting}` | {default} | {meaning} |"


def _fields(kind: type, prefix: str, without: set[str] = frozenset()) -> Iterator[Row]:  # type: ignore[assignment]
    documents = _documents(kind)
    for field in fields(kind):
        if field.name not in without:
            yield f"{prefix}{field.name}", _value(field.default), _cell(documents.get(field.name, ""))


def _documents(kind: type) -> dict[str, str]:
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        if is_dataclass(base):
            found |= field_documents(base)
    return found


def _model(name: str) -> Iterator[Row]:
    builder = model_builder(name)
    documents = _docstring_arguments(builder)
    for parameter in inspect.signature(builder).parameters.values():
        if is_dataclass(parameter.default):
            documents |= _nested_documents(parameter.default)
    for key, default in known_options(builder).items():
        if key not in ("backbone", "pyramid"):
            yield f"model.{key}", _value(default), _cell(documents.get(key, ""))


def _nested_documents(settings: Any) -> dict[str, str]:
    found = _documents(type(settings))
    for value in vars(settings).values():
        if is_dataclass(value):
            found |= _nested_documents(value)
    return found


def _options(builder: Callable[..., Any], prefix: str) -> Iterator[Row]:
    family = find_builder("resnet"), getattr(builder, "__init__", builder), builder
    documents = {key: said for each in family for key, said in _docstring_arguments(each).items()}
    for key, default in default_options(builder).items():
        yield f"{prefix}{key}", _value(default), _cell(documents.get(key, ""))


def _arguments(kind: Callable[..., Any], found: Mapping[str, inspect.Parameter]) -> Iterator[Row]:
    """The arguments `found` of a format; defaults and words of options that it hands on are those of its base."""
    family = [base.__init__ for base in reversed(getattr(kind, "__mro__", ObjectFiles.__mro__))] + [kind]
    documents: dict[str, str] = {}
    defaults: dict[str, Any] = {}
    for function in family:
        documents |= {k: v for k, v in _docstring_arguments(function).items() if v != "see there."}
        parameters = inspect.signature(function).parameters.values()
        defaults |= {p.name: p.default for p in parameters if p.kind is not p.VAR_KEYWORD}
    for name in found:
        yield f"data.{name}", _value(defaults.get(name)), _cell(documents.get(name, ""))


def _docstring_arguments(function: Callable[..., Any]) -> dict[str, str]:
    """What the `Args:` of a docstring say, by name."""
    lines = inspect.cleandoc(function.__doc__ or "").splitlines()
    if "Args:" not in lines:
        return {}
    found: dict[str, str] = {}
    name = ""
    for line in lines[lines.index("Args:") + 1 :]:
        if line and not line.startswith(" "):
            break
        if new := re.match(r"    (\w+): (.*)", line):
            name, found[new[1]] = new[1], new[2]
        elif name:
            found[name] += " " + line.strip()
    return {name: said.strip() for name, said in found.items()}


def _value(default: Any) -> str:
    if default is inspect.Parameter.empty or type(default).__name__ == "_MISSING_TYPE":
        return "must be given"
    if isinstance(default, tuple):
        default = list(default)
    word = WORDS.get(str(default), default)
    return f"`{word}`" if str(word) else "`''`"


def _cell(said: str) -> str:
    return " ".join(said.split()).replace("|", "\\|")


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
