"""The import graph has one direction and no circle between files, and what is promised about imports holds."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each place may import of this project. Strings in the literal tables of zoo/registry.py are the one way
# up, taken when a name is looked up; an import for types alone counts nothing.
CONTRACTS = {
    "tasks.contracts",
    "tasks.preprocessing",
    "tasks.distributed",
    "tasks.devices",
    "tasks.device_copies",
    "tasks.files",
    "tasks.targets",
    "tasks.uncompiled",
}
MAY_IMPORT = {
    "backbones": set(),
    "tasks.targets": set(),
    "tasks.preprocessing": {"backbones"},  # its checks of values
    "tasks.typed_settings": {"backbones"},
    "tasks.distributed": set(),
    "tasks.devices": set(),
    "tasks.uncompiled": set(),
    "tasks.device_copies": {"tasks.uncompiled"},
    "tasks.files": set(),
    "tasks.folders": set(),
    "tasks.contracts": {"tasks.preprocessing"},
    "tasks.data": (CONTRACTS - {"tasks.devices", "tasks.device_copies", "tasks.uncompiled"})
    | {"tasks.typed_settings"},
    "tasks.metrics": {
        "tasks.contracts",
        "tasks.targets",
        "tasks.distributed",
        "tasks.device_copies",
        "tasks.files",
    },
    "tasks.zoo": {"tasks.contracts", "tasks.preprocessing", "tasks.files", "backbones"},
    "tasks.visualization": {"tasks.contracts", "tasks.targets", "tasks.files", "tasks.data"},
}
MAY_IMPORT["tasks.report"] = {*MAY_IMPORT} - {"backbones", "tasks.zoo"}
MAY_IMPORT["tasks.harness"] = {*MAY_IMPORT}
MAY_IMPORT["tasks.inference"] = CONTRACTS | {
    "backbones",
    "tasks.folders",
    "tasks.zoo",
    "tasks.visualization",
    "tasks.data",
    "tasks.metrics",
}
BELOW_TASKS = {*MAY_IMPORT}
MAY_IMPORT |= {
    f"tasks.{task}": BELOW_TASKS for task in ("classification", "detection", "semantic_segmentation")
}
MAY_IMPORT["tasks.instance_segmentation"] = BELOW_TASKS | {"tasks.detection"}
MAY_IMPORT["tasks.export"] = {*MAY_IMPORT}
MAY_IMPORT["tasks.studies"] = {*MAY_IMPORT}
MAY_IMPORT["tasks.cli"] = {*MAY_IMPORT}
MAY_IMPORT["tasks"] = {*MAY_IMPORT}  # the front door, whose functions import what they need when called


def modules() -> dict[str, Path]:
    """Files by the names of their modules."""
    found = {}
    for top in ("backbones", "tasks"):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def place(module: str) -> str:
    """`tasks.data.formats.coco` lives in `tasks.data`; everything of `backbones` in `backbones`."""
    return "backbones" if module.startswith("backbones") else ".".join(module.split(".")[:2])


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Every import, inside of functions too, but those of `if TYPE_CHECKING`."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
        return
    is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
    for child in node.orelse if is_for_types else ast.iter_child_nodes(node):
        yield from statements(child)


@cache
def project_imports(path: Path, module: str) -> frozenset[str]:
    """The modules of this project that the file names: `from a import b` names a.b where that is a module."""
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    found = set()
    for node in statements(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        start = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        name = ".".join([*start, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{name}.{alias.name}"
            found.add(inner if inner in MODULES else name)
    return frozenset(name for name in found if name.split(".")[0] in ("tasks", "backbones", "tools", "tests"))


@pytest.mark.parametrize("module", MODULES)
def test_modules_import_only_what_lies_below(module: str) -> None:
    own = place(module)
    assert own in MAY_IMPORT, f"{own} has no line in MAY_IMPORT"
    imported = {place(name) for name in project_imports(MODULES[module], module)}
    assert imported <= MAY_IMPORT[own] | {own}


def test_no_circle_between_files() -> None:
    graph = {module: project_imports(path, module) for module, path in MODULES.items()}
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"these import each other: {' → '.join(error.args[1])}")
    assert set(order) == set(MODULES)  # and every name is a module that is there


def test_imports_are_found_wherever_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "coco.py"
    path.write_text(
        "from typing import TYPE_CHECKING\n"
        "from . import raw\n"
        "from ..quality.policy import OnInvalid\n"
        "if TYPE_CHECKING:\n    import tasks.harness.train\n"
        "else:\n    import tasks.distributed\n"
        "def read():\n    try:\n        from tasks.data.sources import Source\n    finally:\n        import torch\n"
    )
    assert project_imports(path, "tasks.data.formats.coco") == {
        "tasks.data.formats.raw",
        "tasks.data.quality.policy",
        "tasks.distributed",
        "tasks.data.sources",
    }


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("backbones")])
def test_backbones_import_themselves_relatively(module: str) -> None:
    nodes = statements(ast.parse(MODULES[module].read_text()))
    names = [
        name
        for node in nodes
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module])
        if isinstance(node, ast.Import) or node.level == 0
    ]
    assert not [name for name in names if name and name.split(".")[0] in ("backbones", "tasks")]


@pytest.mark.parametrize("module", [name for name in MODULES if not name.startswith("tasks.cli")])
def test_hydra_lives_in_the_command_line_alone(module: str) -> None:
    text = MODULES[module].read_text()
    names = [
        name
        for node in ast.walk(ast.parse(text))  # for types alone, too
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [*(alias.name for alias in node.names), getattr(node, "module", None) or ""]
    ]
    assert not [name for name in names if name.split(".")[0] in ("hydra", "omegaconf")]
    assert "DictConfig" not in text


@pytest.mark.parametrize("package", sorted({path.parent for path in MODULES.values()}), ids=lambda p: p.name)
def test_every_package_says_its_one_job(package: Path) -> None:
    assert ast.get_docstring(ast.parse((package / "__init__.py").read_text()))


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("backbones", ("lightning", "hydra", "timm", "albumentations", "tasks")),
        ("tasks", ("torch", "lightning", "hydra")),
        ("tasks.cli.main", ("torch", "lightning", "hydra")),
        ("tasks.detection.faster_rcnn", ("lightning", "hydra", "albumentations", "cv2")),
        ("tasks.metrics.coco", ("lightning", "hydra")),
    ],
)
def test_import_does_not_load(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([n for n in {absent!r} if n in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert result.stdout.strip() == "[]"
