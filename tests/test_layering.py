"""The import graph has one direction, and what is promised about imports holds."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# What each place may import of this project, at run time or for types. Strings in the literal tables of
# harness/architectures.py are the one way up, taken when a name is looked up.
MAY_IMPORT = {
    "tasks.contracts": {"tasks.preprocessing"},
    "tasks.preprocessing": set(),
    "tasks.ranks": set(),
    "tasks.device_copies": set(),
    "tasks.data": {"tasks.contracts", "tasks.preprocessing"},
    "tasks.metrics": {"tasks.contracts", "tasks.ranks", "tasks.device_copies"},
    "tasks.harness": {
        "tasks.contracts",
        "tasks.preprocessing",
        "tasks.ranks",
        "tasks.device_copies",
        "tasks.data",
        "tasks.metrics",
        "backbones",
    },
}
BELOW_TASKS = {*MAY_IMPORT, "backbones"}
MAY_IMPORT |= {
    f"tasks.{task}": BELOW_TASKS for task in ("classification", "detection", "semantic_segmentation")
}
MAY_IMPORT["tasks.instance_segmentation"] = BELOW_TASKS | {"tasks.detection"}


def place(module: str) -> str:
    """`tasks.data.coco` lives in `tasks.data`; everything of `backbones` in `backbones`."""
    return "backbones" if module.startswith("backbones") else ".".join(module.split(".")[:2])


def project_imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return {place(name) for name in found if name.split(".")[0] in ("tasks", "backbones", "tools", "tests")}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tasks").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_tasks_import_only_what_lies_below(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if module == "tasks.__init__":
        return  # the front door, whose functions import the harness when called
    own = place(module)
    assert own in MAY_IMPORT, f"{own} has no line in MAY_IMPORT"
    allowed = MAY_IMPORT[own] | {own}
    assert project_imports(path) <= allowed


@pytest.mark.parametrize(
    "path", sorted((ROOT / "backbones").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT))
)
def test_backbones_import_themselves_relatively(path: Path) -> None:
    assert project_imports(path) == set()


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("backbones", ("lightning", "hydra", "timm", "albumentations", "tasks")),
        ("tasks", ("torch", "lightning", "hydra")),
        ("tasks.harness.cli", ("torch", "lightning", "hydra")),
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
