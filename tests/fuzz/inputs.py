"""Hostile model files, checkpoints, run folders, pictures, archives, data sets and command lines, each from a seed.

A case is a small genuine file with something wrong in it: a value of the header, a tensor, an entry of a pickle, or
a few bytes. `cases` gives name and call for each; the name says what was done.
"""

import contextlib
import copy
import io
import json
import pickle
import random
import shutil
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import timm  # noqa: F401 (before the watch: it imports wandb, which makes folders)
import torch
from safetensors.torch import save

import backbones
from tasks import load_predictor
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import METADATA_KEY, Header
from tasks.zoo.registry import build_model, resolved_spec
from tests.fuzz import annotations, archives, command_lines, images

BACKBONE = {"name": "resnet", "block": "basic", "blocks": [1, 1, 1, 1], "widths": [4, 4, 8, 8]}
PYRAMID = {"name": "fpn", "channels": 8}
SPECS = {
    "faster_rcnn": {"box_representation_size": 8, "rpn_post_nms_test": 20, "rpn_pre_nms_test": 20},
    "mask_rcnn": {"box_representation_size": 8, "rpn_post_nms_test": 20, "mask_width": 4, "mask_layers": 1},
    "retinanet": {"head_layers": 1, "pre_nms": 20},
    "fcos": {"head_layers": 1},
    "gfl": {"head_layers": 1},
    "yolox": {"width": 0.0625},
    "semantic_fpn": {"channels": 8},
    "classifier": {},
}
TASKS = {
    "mask_rcnn": "instance_segmentation",
    "semantic_fpn": "semantic_segmentation",
    "classifier": "classification",
}
ADDRESS = "http://127.0.0.1:9/weights-00000000.pth"


class Genuine(NamedTuple):
    """What a model file holds."""

    header: dict[str, Any]
    tensors: dict[str, torch.Tensor]


class Case(NamedTuple):
    """An input and what is done with it."""

    name: str
    call: Callable[[], Any]


@cache
def genuine(name: str) -> Genuine:
    """A small model called `name`, with random weights."""
    torch.manual_seed(0)
    spec = {
        "name": name,
        "backbone": BACKBONE,
        "pyramid": None if name == "classifier" else PYRAMID,
        **SPECS[name],
    }
    preprocessing = Preprocessing(short_side=64, max_size=96)
    model = build_model(spec, num_classes=2, preprocessing=preprocessing)
    task = TASKS.get(name, "detection")
    header = Header(
        task, resolved_spec(spec, model), ["cat", "dog"], [17, 18], preprocessing.to_dict(), {"AP": 0.1}
    )
    return Genuine(asdict(header), {key: value.contiguous() for key, value in model.state_dict().items()})


def nasty(rng: random.Random) -> Any:
    """A value that should not be where it will be put."""
    deep: Any = []
    for _ in range(rng.choice((15, 40, 400))):
        deep = [deep]
    return rng.choice([
        None, True, False, -1, 0, 1, 2, 3, 7, 31, 10**5, 10**9, 10**12, 10**30, -(10**9), 0.0, 0.5, -0.5, 1e-30, 1e300,
        float("nan"), float("inf"), "", "x", "resnet50", "fpn", "simple", "batch", "group", "../../x", "/etc/passwd",
        ADDRESS, "file:///etc/passwd", "IMAGENET1K_V1", [], {}, [1], [0, 0, 0], [-1, -1, -1], ["a"], [None], [1] * 5000,
        list(range(300)), {"a": 1}, {"name": "x"}, {"_target_": "os.system"}, {"name": "timm", "model": "resnet18"},
        {"name": "timm", "model": "hf-hub:a/b"}, {"name": "torchvision", "model": "regnet_y_128gf"}, BACKBONE,
        {"name": "resnet152"}, {"name": "resnet", "blocks": [3000, 1, 1, 1]}, {**BACKBONE, "pretrained": ADDRESS},
        {**BACKBONE, "widths": [10**6] * 4}, {"name": "vgg", "convolutions": [10**5] * 5}, deep,
    ])  # fmt: skip


def mutate(value: Any, rng: random.Random) -> str:
    """Changes one place in nested dicts and lists; what was done."""
    path = []
    while True:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        inner = [key for key in keys if isinstance(value[key], dict | list) and value[key]]
        if inner and rng.random() < 0.75:
            key = rng.choice(inner)
            path.append(key)
            value = value[key]
            continue
        kind = rng.random()
        if kind < 0.15 and keys:
            key = rng.choice(keys)
            del value[key]
            return f"without {[*path, key]!s:.80}"
        if kind < 0.3:
            key = rng.choice(
                ["pretrained", "_target_", "x", "checkpoint_path", "weights", "model_options", "url"]
            )
            added = nasty(rng)
            if isinstance(value, dict):
                value[key] = added
            else:
                value.append(added)
            return f"{[*path, key]!s:.80} added: {added!s:.40}"
        if not keys:
            return "nothing"
        key = rng.choice(keys)
        value[key] = nasty(rng)
        return f"{[*path, key]!s:.80} = {value[key]!s:.40}"


def spoil(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """`content` with a few bytes wrong; what was done."""
    data = bytearray(content)
    kind = rng.choice(("flip", "flip near the start", "cut", "grow", "zero", "length"))
    if kind == "cut":
        del data[rng.randrange(len(data)) :]
    elif kind == "grow":
        at = rng.randrange(len(data))
        data[at:at] = rng.randbytes(rng.choice((1, 8, 1000)))
    elif kind == "zero":
        at = rng.randrange(len(data))
        data[at : at + 100] = bytes(len(data[at : at + 100]))
    elif kind == "length":
        data[:8] = struct.pack("<Q", rng.choice((0, 1, 100, 2**31, 2**63, 2**64 - 1)))
    else:
        end = len(data) if kind == "flip" else min(4000, len(data))
        for _ in range(rng.choice((1, 3, 30))):
            data[rng.randrange(end)] = rng.randrange(256)
    return bytes(data), kind


def spoil_tensors(tensors: dict[str, torch.Tensor], rng: random.Random) -> str:
    """Changes the tensors; what was done."""
    key = rng.choice([key for key, value in tensors.items() if value.ndim > 0])
    kind = rng.choice(
        ("nan", "inf", "shape", "half", "int", "complex", "gone", "renamed", "many", "compiled", "fp8")
    )
    value = tensors[key]
    if kind in ("nan", "inf"):
        tensors[key] = value.clone()
        tensors[key].view(-1)[0] = float(kind)
    elif kind == "shape":
        tensors[key] = value.reshape(-1)[:-1].clone()
    elif kind in ("half", "int", "complex", "fp8"):
        dtypes = {
            "half": torch.float16,
            "int": torch.int32,
            "complex": torch.complex64,
            "fp8": torch.float8_e5m2,
        }
        tensors[key] = value.to(dtypes[kind])
    elif kind == "gone":
        del tensors[key]
    elif kind == "renamed":
        tensors[f"{key}x"] = tensors.pop(key)
    elif kind == "many":
        tensors |= {f"empty.{n}": torch.empty(0) for n in range(rng.choice((500, 20_000)))}
    else:
        for name in list(tensors):
            tensors[name.replace("backbone.", "backbone._orig_mod.", 1)] = tensors.pop(name)
    return f"{kind} {key}"


class RunsCode:
    """Pickles to a call."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def spoil_pickle(contents: dict[str, Any], rng: random.Random, folder: Path) -> str:
    """Changes what a checkpoint holds; what was done."""
    kind = rng.choice(
        ("value", "value", "value", "code", "spread", "sparse", "shared", "cycle", "meta", "tensors")
    )
    state = contents["state_dict"]
    key = rng.choice(list(state))
    if kind == "value":
        return mutate(contents, rng)
    if kind == "code":
        contents[rng.choice(list(contents))] = RunsCode(folder.parent / "ran")
    elif kind == "spread":
        state[key] = torch.zeros(1).expand(rng.choice((10, 10**4, 10**6)), 1000)
    elif kind == "sparse":
        state[key] = torch.eye(3).to_sparse()
    elif kind == "meta":
        state[key] = torch.empty(3, device="meta")
    elif kind == "tensors":
        return spoil_tensors(state, rng)
    else:
        shared: list[Any] = [1]
        for _ in range(40 if kind == "shared" else 0):
            shared = [shared, shared]
        if kind == "cycle":
            shared.append(shared)
        contents[METADATA_KEY]["model"][rng.choice(("name", "backbone", "x"))] = shared
    return f"{kind} {key}"


def archive(content: bytes, rng: random.Random) -> tuple[bytes, str]:
    """A checkpoint whose members are compressed, or claim another size."""
    out = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            body = source.read(member)
            target.writestr(member.filename, body + bytes(10**7 if member.filename.endswith("/0") else 0))
    data = out.getvalue()
    if rng.random() < 0.5:
        return spoil(data, rng)
    return data, "compressed"


def opened(path: Path) -> Callable[[], Any]:
    """Reads the file by both ways in, and predicts with what was read."""

    def call() -> None:
        with contextlib.suppress(ValueError, FileNotFoundError):  # the model is to be tried all the same
            backbones.load_backbone(path)
        predictor = load_predictor(path, device="cpu", precision="32-true")
        if (
            max(
                predictor.header.preprocessing.get("short_side", 800) or 0,
                predictor.header.preprocessing.get("pad_multiple", 32),
            )
            < 300
        ):
            predictor(np.full((40, 50, 3), 100, np.uint8))

    return call


def model_file(rng: random.Random, folder: Path) -> Case:
    """A model file with a wrong header, wrong tensors or wrong bytes."""
    name = rng.choice(list(SPECS))
    header, tensors = copy.deepcopy(genuine(name).header), dict(genuine(name).tensors)
    kind = rng.choice(("header", "header", "header", "header", "tensors", "bytes", "text"))
    what = ""
    if kind == "header":
        what = "; ".join(mutate(header, rng) for _ in range(rng.choice((1, 1, 1, 2))))
    elif kind == "tensors":
        what = spoil_tensors(tensors, rng)
    text = json.dumps(header)
    if kind == "text":
        text = rng.choice(
            (text[:-9], "[" * 10**5, "1" * 10**5, "null", "[]", text.replace("1", "1e999"), "NaN", "{}")
        )
        what = text[:20]
    content = save(tensors, metadata={METADATA_KEY: text})
    if kind == "bytes":
        content, what = spoil(content, rng)
    path = folder / f"{rng.choice(('model', 'model.x'))}.safetensors"
    path.write_bytes(content)
    return Case(f"model file of {name}, {kind}: {what}", opened(path))


def checkpoint(rng: random.Random, folder: Path) -> Case:
    """A checkpoint with wrong contents or wrong bytes."""
    name = rng.choice(list(SPECS))
    header, tensors = copy.deepcopy(genuine(name).header), genuine(name).tensors
    contents = {METADATA_KEY: header, "state_dict": {f"model.{key}": value for key, value in tensors.items()}}
    kind = rng.choice(("contents", "contents", "contents", "bytes", "archive", "pickle"))
    what = spoil_pickle(contents, rng, folder) if kind == "contents" else ""
    buffer = io.BytesIO()
    torch.save(contents, buffer, _use_new_zipfile_serialization=rng.random() < 0.9)
    content = buffer.getvalue()
    if kind == "bytes":
        content, what = spoil(content, rng)
    elif kind == "archive":
        buffer = io.BytesIO()
        torch.save(contents, buffer)
        content, what = archive(buffer.getvalue(), rng)
    elif kind == "pickle":
        content = pickle.dumps(rng.choice((nasty(rng), RunsCode(folder.parent / "ran"))))
    path = folder / rng.choice(("last.ckpt", "last.pth"))
    path.write_bytes(content)
    return Case(f"checkpoint of {name}, {kind}: {what}", opened(path))


@cache
def genuine_run(place: Path) -> Path:
    """A run of a few steps in `place`."""
    from tasks.cli.compose import compose
    from tasks.cli.train import train
    from tests.tiny_runs import TINY

    words = [
        *TINY["classification"],
        "early_stopping=5",
        "trainer.max_steps=2",
        f"run_dir={place / 'genuine'}",
    ]
    train(compose("train", words))
    return place / "genuine"


def run_folder(rng: random.Random, folder: Path) -> Case:
    """A run's folder whose checkpoint is wrong, which is asked to resume for no further step."""
    from tasks.cli.compose import compose
    from tasks.cli.train import train

    run = folder / "run"
    shutil.copytree(genuine_run(folder.parent), run)
    path = run / "checkpoints" / "last.ckpt"
    if rng.random() < 0.15:
        content, what = spoil(path.read_bytes(), rng)
        path.write_bytes(content)
    else:
        contents = torch.load(path, weights_only=True)
        del contents["config"]  # which nothing reads
        what = mutate(contents, rng) if rng.random() < 0.7 else spoil_pickle(contents, rng, folder)
        torch.save(contents, path)
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}

    def call() -> None:
        try:
            train(compose("train", [f"resume={run}"]))
        except (ValueError, FileNotFoundError):
            after = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
            assert after == before, "a refused checkpoint changed the run"
            raise

    return Case(f"run: {what}", call)


def damaged(module: ModuleType) -> Callable[[random.Random, Path], Case]:
    """The cases of a generator of damaged data, which has `inputs(seed)` without end and `check(input)`."""

    def make(rng: random.Random, folder: Path) -> Case:
        given = next(module.inputs(rng.randrange(2**32)))

        def call() -> None:
            before, tempfile.tempdir = tempfile.tempdir, str(folder)  # or it would write elsewhere
            try:
                wrong = module.check(given)
            finally:
                tempfile.tempdir = before
            assert not wrong, wrong

        return Case(given.name, call)

    return make


@cache
def classifier_of_digits() -> bytes:
    """The model file of a small network for the embedded digits, with random weights."""
    torch.manual_seed(0)
    spec = {"name": "classifier", "backbone": {**BACKBONE, "blocks": [1, 1], "widths": [4, 8]}}
    preprocessing = Preprocessing(short_side=None)
    model = build_model(spec, num_classes=10, preprocessing=preprocessing)
    names = [str(digit) for digit in range(10)]
    header = Header(
        "classification", resolved_spec(spec, model), names, list(range(10)), preprocessing.to_dict()
    )
    tensors = {key: value.contiguous() for key, value in model.state_dict().items()}
    return save(tensors, metadata={METADATA_KEY: json.dumps(asdict(header))})


def command_line(rng: random.Random, folder: Path) -> Case:
    """A command with wrong words."""
    given = command_lines.make(rng)
    command_lines.prepare(folder, classifier_of_digits())

    def call() -> None:
        wrong = command_lines.check(given, folder)
        assert not wrong, wrong

    return Case(given.name, call)


KINDS: dict[str, Callable[[random.Random, Path], Case]] = {
    "model file": model_file,
    "checkpoint": checkpoint,
    "run": run_folder,
    "image": damaged(images),
    "archive": damaged(archives),
    "data set": damaged(annotations),
    "command line": command_line,
}


def cases(kind: str, folder: Path, *, seed: int = 0) -> Iterator[tuple[int, Case, Path]]:
    """Endless cases of one kind with their seeds, each in a folder of its own below `folder`, which is emptied
    after it."""
    while True:
        place = folder / f"{kind.replace(' ', '-')}-{seed}"
        place.mkdir(parents=True)
        yield seed, KINDS[kind](random.Random(f"{kind} {seed}"), place), place
        shutil.rmtree(place)
        seed += 1
