"""The wheel: what it requires, and the README's example run with the wheel and its requirements alone."""

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REQUIRED = {"torch", "torchvision", "safetensors"}
ABSENT = ("lightning", "hydra", "timm", "albumentations", "cv2", "pycocotools", "scipy", "sklearn", "pytest")

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, as setuptools leaves a build folder beside its sources."""
    pytest.importorskip("setuptools", minversion="77")  # then nothing needs downloading
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in ("backbones", "tasks"):
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--isolated", "--disable-pip-version-check", "--wheel-dir", folder, source, cwd=folder,
    )  # fmt: skip
    (path,) = folder.glob("vertebra-*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path) -> Path:
    """The interpreter of a new environment in which only the wheel and what it requires can be imported."""
    folder = wheel.parent / "environment"
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=wheel.parent)
    exposed = wheel.parent / "exposed"
    exposed.mkdir()
    for name in closure(REQUIRED):
        files = distribution(name).files or []
        for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
            if not (exposed / top).exists():
                (exposed / top).symlink_to(distribution(name).locate_file(top))
    scheme = {"base": str(folder), "platbase": str(folder)}
    (Path(sysconfig.get_path("purelib", "venv", scheme)) / "exposed.pth").write_text(f"{exposed}\n")
    interpreter = Path(sysconfig.get_path("scripts", "venv", scheme)) / Path(sys.executable).name
    run(
        sys.executable, "-m", "pip", "--isolated", "--python", interpreter, "install", "--no-deps", "--no-index",
        "--disable-pip-version-check", wheel, cwd=wheel.parent,
    )  # fmt: skip
    return interpreter


def closure(names: set[str]) -> set[str]:
    """`names` and the distributions that they require here, those of the extras they ask for included."""
    found: set[tuple[str, str]] = set()
    waiting = {(name, "") for name in names}  # with an extra, or "" for none
    while waiting:
        name, extra = waiting.pop()
        found.add((name, extra))
        for text in distribution(name).requires or []:
            needed = Requirement(text)
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                needed_name = canonicalize_name(needed.name)
                waiting |= {(needed_name, wanted) for wanted in ("", *needed.extras)} - found
    return {name for name, _ in found}


def test_the_wheel_requires_three_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        header = Parser().parsestr(archive.read(metadata).decode())
    requirements = [Requirement(text) for text in header.get_all("Requires-Dist", [])]
    assert {r.name for r in requirements if "extra" not in str(r.marker)} == REQUIRED
    assert {"backbones/create.py", "backbones/py.typed", "tasks/__init__.py"} <= set(names)
    assert not [name for name in names if name.startswith(("tests/", "tools/", "configs/"))]
    assert header["License-Expression"] == "Apache-2.0"


def test_nothing_else_is_there(python: Path, tmp_path: Path) -> None:
    code = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    assert run(python, "-I", "-c", code, cwd=tmp_path).strip() == "[]"
    place = run(python, "-I", "-c", "import backbones; print(backbones.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(python.parents[1])


def test_the_readmes_downstream_project(python: Path, tmp_path: Path) -> None:
    readme = (ROOT / "backbones" / "README.md").read_text()
    section = readme.split("\n## A downstream project\n")[1].split("\n## ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    code = found[1]
    assert len([line for line in code.splitlines() if line.strip()]) <= 20
    script = tmp_path / "unet.py"
    script.write_text(code + "\nprint(tuple(logits.shape), logits.isfinite().all().item())\n")
    assert run(python, "-I", script, cwd=tmp_path).strip() == "(2, 21, 225, 321) True"
