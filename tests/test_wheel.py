"""The wheel: what it requires, the README's example with the wheel and its requirements alone, and the command
`vertebra` with those of its `train` extra, in an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from email.message import Message
from email.parser import Parser
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

from tasks.cli.commands import COMMANDS

ROOT = Path(__file__).parents[1]
REQUIRED = {"torch", "torchvision", "safetensors"}
ABSENT = ("lightning", "hydra", "timm", "albumentations", "cv2", "pycocotools", "scipy", "sklearn", "pytest")

ALONE = {
    name: value for name, value in os.environ.items() if name != "PYTHONPATH"
}  # the wheel's code, not this

pytestmark = pytest.mark.slow


def run(*words: object, cwd: Path) -> str:
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=300, env=ALONE
    )
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
    for package in ("backbones", "tasks", "configs"):
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
    return install(wheel, wheel.parent / "plain", REQUIRED)


@pytest.fixture(scope="module")
def command(wheel: Path) -> Path:
    """`vertebra` of a new environment with the wheel and its `train` extra."""
    extra = [r for r in requirements(wheel) if r.marker and r.marker.evaluate({"extra": "train"})]
    names = REQUIRED | {canonicalize_name(requirement.name) for requirement in extra}
    return install(wheel, wheel.parent / "train", names).parent / "vertebra"


def install(wheel: Path, folder: Path, names: set[str]) -> Path:
    """The interpreter of a new environment in `folder`, where the wheel, the distributions `names` and what these
    require can be imported; links to this environment's, so that nothing is downloaded."""
    run(sys.executable, "-m", "venv", "--without-pip", folder, cwd=wheel.parent)
    exposed = folder / "exposed"
    exposed.mkdir()
    for name in closure(names):
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


def header_and_names(wheel: Path) -> tuple[Message, list[str]]:
    """The metadata, and the names of all files."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(metadata).decode()), names


def requirements(wheel: Path) -> list[Requirement]:
    return [Requirement(text) for text in header_and_names(wheel)[0].get_all("Requires-Dist", [])]


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
    header, names = header_and_names(wheel)
    assert {r.name for r in requirements(wheel) if "extra" not in str(r.marker)} == REQUIRED
    assert {"backbones/py.typed", "tasks/py.typed"} <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"backbones", "tasks"}
    assert header["License-Expression"] == "Apache-2.0"


def test_every_module_and_configuration_is_in_it(wheel: Path) -> None:
    packed = {name for name in header_and_names(wheel)[1] if name.endswith((".py", ".yaml"))}
    modules = {str(p.relative_to(ROOT)) for top in ("backbones", "tasks") for p in (ROOT / top).rglob("*.py")}
    configs = {str(p.relative_to(ROOT / "configs")) for p in (ROOT / "configs").rglob("*.yaml")}
    assert packed == modules | {f"tasks/cli/configs/{name}" for name in configs}


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


def test_without_the_extra_the_command_says_what_is_missing(python: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [python.parent / "vertebra", "train"], cwd=tmp_path, capture_output=True, text=True, env=ALONE
    )
    assert done.returncode == 2
    assert "is not installed; pip install 'vertebra[train]' brings it" in done.stderr


def test_train_predict_and_check_data_in_an_empty_folder(command: Path, tmp_path: Path) -> None:
    words = [
        "data.num_train=8", "data.num_val=2", "data.num_test=2", "loader.batch_size=2", "pyramid.channels=16",
        "backbone=resnet18", "preprocessing.short_side=96", "preprocessing.max_size=96", "trainer.accelerator=cpu",
    ]  # fmt: skip
    output = run(command, "train", "task=detection", "trainer.max_steps=20", *words, cwd=tmp_path)
    (folder,) = (tmp_path / "runs").iterdir()
    assert "(AP) @[ IoU=0.50:0.95" in output and (folder / "model.safetensors").is_file()
    output = run(
        command, "predict", f"checkpoint={folder / 'model.safetensors'}", f"source={folder / 'predictions.jpg'}",
        "device=cpu", "output=found", cwd=tmp_path,
    )  # fmt: skip
    assert "1 picture and predictions.json" in output
    (picture,) = json.loads((tmp_path / "found" / "predictions.json").read_text())["pictures"]
    assert (tmp_path / "found" / picture["annotated"]).is_file()
    write_coco(tmp_path / "data")
    places = [
        "train_images=train",
        "train_annotations=train.json",
        "val_images=val",
        "val_annotations=val.json",
    ]
    output = run(
        command, "check-data", "data=coco", f"data.root={tmp_path / 'data'}", *(f"data.{p}" for p in places),
        cwd=tmp_path,
    )  # fmt: skip
    assert "train: 2 images, 2 annotations, 1 categories" in output and "no issue found" in output


def write_coco(folder: Path) -> None:
    """Two splits of two pictures with a square each."""
    for seed, split in enumerate(("train", "val")):
        (folder / split).mkdir(parents=True)
        images, annotations = [], []
        for number in (1, 2):
            pixels = np.random.default_rng([seed, number]).integers(0, 255, (64, 80, 3), np.uint8)
            Image.fromarray(pixels).save(folder / split / f"{number}.png")
            images.append({"id": number, "file_name": f"{number}.png", "height": 64, "width": 80})
            box = {"bbox": [8, 8, 32, 32], "area": 1024, "iscrowd": 0}
            annotations.append({"id": number, "image_id": number, "category_id": 1, **box})
        contents = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": 1, "name": "square"}],
        }
        (folder / f"{split}.json").write_text(json.dumps(contents))


def test_help_of_every_command_comes_at_once(command: Path, tmp_path: Path) -> None:
    overview = run(command, "--help", cwd=tmp_path)
    for name in COMMANDS:
        assert f"\n  {name} " in overview
        assert f"vertebra {name} " in run(command, name, "--help", cwd=tmp_path)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        run(command, "--help", cwd=tmp_path)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.3
