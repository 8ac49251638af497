"""What commands do not import, and that what they leave out is whole when something else asks for it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.tiny_runs import TINY

ROOT = Path(__file__).parents[1]
HEAVY = {
    "albumentations", "hotcoco", "lightning", "matplotlib", "pandas", "scipy", "sklearn", "sympy", "tensorboard",
    "timm", "torch", "torch._dynamo", "torch._inductor", "torch.onnx", "torchmetrics", "torchvision", "wandb",
}  # fmt: skip
PREDICTING = {"torch"}
TRAINING = {"torch", "hotcoco", "lightning", "torchmetrics"}
COMMAND = """
import atexit, json, runpy, sys
from pathlib import Path
listed, sys.argv = sys.argv[1], sys.argv[2:]
atexit.register(lambda: Path(listed).write_text(json.dumps(sorted(sys.modules))))
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def heavy_modules_of(name: str, *words: object, cwd: Path) -> set[str]:
    """Those of `HEAVY` that the command has imported when it ends."""
    command = [sys.executable, "-c", COMMAND, "modules.json", ROOT / "tools" / f"{name}.py", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, command)), cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return HEAVY & set(json.loads((cwd / "modules.json").read_text()))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a picture and, after the first test, a run."""
    folder = tmp_path_factory.mktemp("startup")
    Image.new("RGB", (96, 80), (200, 100, 50)).save(folder / "picture.png")
    return folder


@pytest.fixture(scope="module")
def modules_of_training(place: Path) -> set[str]:
    return heavy_modules_of("train", *TINY["detection"], "trainer.max_steps=2", "run_dir=run", cwd=place)


def test_train(modules_of_training: set[str]) -> None:
    assert modules_of_training == TRAINING


def test_evaluate(modules_of_training: set[str], place: Path) -> None:
    words = [
        "checkpoint=run/model.safetensors",
        "data.num_val=2",
        "trainer.accelerator=cpu",
        "run_dir=scores",
    ]
    assert heavy_modules_of("evaluate", *words, cwd=place) == TRAINING


def test_predict(modules_of_training: set[str], place: Path) -> None:
    words = ["checkpoint=run/model.safetensors", "source=picture.png", "device=cpu", "output=found"]
    assert heavy_modules_of("predict", *words, cwd=place) == PREDICTING


@pytest.mark.parametrize(("name", "to"), [("check_data", None), ("convert_data", "yolo")])
def test_commands_that_read_files_alone(name: str, to: str | None, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.effect_noise((96, 80), 50).convert("RGB").save(tmp_path / "images" / "1.png")
    contents = {
        "images": [{"id": 1, "file_name": "1.png", "height": 80, "width": 96}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [8, 8, 40, 40], "area": 1600, "iscrowd": 0}],
        "categories": [{"id": 1, "name": "square"}],
    }  # fmt: skip
    (tmp_path / "all.json").write_text(json.dumps(contents))
    words = ["data=coco", f"data.root={tmp_path}"]
    for split in ("train", "val"):
        words += [f"data.{split}_images=images", f"data.{split}_annotations=all.json"]
    words += [] if to is None else [f"to={to}", "out=out"]
    assert heavy_modules_of(name, *words, cwd=tmp_path) == set()


def test_help(tmp_path: Path) -> None:
    assert heavy_modules_of("train", "--help", cwd=tmp_path) == set()
    listed = json.loads((tmp_path / "modules.json").read_text())
    assert not {"numpy", "hydra", "omegaconf", "yaml", "argparse"} & set(listed)


def test_what_was_left_out_works_when_something_asks_for_it(tmp_path: Path) -> None:
    """Optimisers before torch._dynamo is imported and after, a compiled model that Lightning knows for one, and the
    packages that torchmetrics did without."""
    code = """
import sys
from tasks.cli.startup import import_less
import_less()
import torch
import lightning.pytorch as pl
from lightning.pytorch.utilities.compile import from_compiled, to_uncompiled
from lightning.fabric.wrappers import _unwrap_compiled
assert not {"torch._dynamo", "scipy", "matplotlib", "torchvision"} & set(sys.modules)

def step(model):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).sum().backward()
    optimizer.step()
    return model.weight.detach().clone()

torch.manual_seed(0)
layer = torch.nn.Linear(3, 3)
start = {name: value.clone() for name, value in layer.state_dict().items()}
optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
first = step(layer)
assert not torch.equal(first, start["weight"]) and "torch._dynamo" not in sys.modules
assert _unwrap_compiled(layer) == (layer, None)

import torch._dynamo
layer.load_state_dict(start)
optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
assert torch.equal(step(layer), first)
compiled = torch.compile(layer, backend="eager")
assert _unwrap_compiled(compiled)[0] is layer
layer.load_state_dict(start)
optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
assert torch.equal(step(compiled), first)
whole = torch.compile(pl.LightningModule(), backend="eager")
assert from_compiled(whole)._compiler_ctx is not None and to_uncompiled(from_compiled(whole))

import scipy.signal, matplotlib.pyplot, torchvision
assert scipy.signal.windows.hamming(3)[1] == 1 and torchvision.ops.nms
from lightning_utilities.core.imports import RequirementCache, package_available
assert package_available("scipy") and RequirementCache("matplotlib")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
