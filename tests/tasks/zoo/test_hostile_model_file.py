"""Files made to harm: opening one asks for nothing, opens nothing else, and ends in a sentence, soon."""

import copy
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm  # noqa: F401 (before the watch: it imports wandb, which makes folders)
import torch
from safetensors.torch import save_file

import backbones
from tasks import load_model, load_predictor
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import METADATA_KEY
from tasks.zoo.registry import build_model
from tests.backbones.file_server import FileServer
from tests.fuzz.inputs import BACKBONE, genuine
from tests.fuzz.watch import watched

KEYS = ("pretrained", "url", "weights", "checkpoint_path", "pretrained_cfg", "path", "file", "cache_dir")


def written(folder: Path, name: str, changes: dict[str, Any] | None = None, **tensors: torch.Tensor) -> Path:
    """The genuine model called `name` with other values in its header, dotted keys, and other tensors."""
    header = copy.deepcopy(genuine(name).header)
    for key, value in (changes or {}).items():
        *parents, last = key.split(".")
        node = header
        for parent in parents:
            node = node[parent]
        node[last] = value
    path = folder / "model.safetensors"
    metadata = {METADATA_KEY: json.dumps(header)}
    save_file({**genuine(name).tensors, **tensors}, path, metadata=metadata)
    return path


@pytest.fixture
def server(tmp_path, monkeypatch):
    server = FileServer()
    server.files["resnet-00000000.pth"] = b"weights"
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    yield server
    server.close()


@pytest.mark.parametrize("name", ["faster_rcnn", "semantic_fpn", "classifier"])
def test_no_key_of_a_header_makes_a_request_or_opens_a_file(server, name: str, tmp_path: Path) -> None:
    secret = tmp_path / "secret.pth"
    torch.save(genuine("classifier").tensors, secret)
    case = tmp_path / "case"
    case.mkdir()
    places = ["", "model.", "model.backbone.", "preprocessing.", "provenance.", "metrics."]
    places += ["model.pyramid."] if name != "classifier" else []
    address = f"{server.url}/resnet-00000000.pth"
    tried = [(key, address) for key in KEYS]
    tried += [("pretrained", value) for value in (str(secret), secret.as_uri(), True, "IMAGENET1K_V1")]
    for place in places:
        for key, value in tried:
            path = written(case, name, {place + key: value})
            for read in (load_model, backbones.load_backbone):
                assert watched(partial(read, path), case) == "", (place + key, value)
    adapted = {"name": "timm", "model": "resnet18"}
    for options in (
        {"pretrained": True},
        {"pretrained_cfg": {"url": server.url}},
        {"checkpoint_path": str(secret)},
    ):
        path = written(case, name, {"model.backbone": {**adapted, "model_options": options}})
        assert watched(partial(load_model, path), case) == "", options
    for model in ("hf-hub:timm/resnet18.a1_in1k", "local-dir:/etc"):
        path = written(case, name, {"model.backbone": {"name": "timm", "model": model}})
        assert watched(partial(load_model, path), case) == "", model
    assert server.requests == []
    assert not (tmp_path / "cache").exists()


def test_weights_from_elsewhere_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "faster_rcnn", {"model.backbone.pretrained": "http://127.0.0.1:9/x.pth"})
    with pytest.raises(
        ValueError, match="asks for weights from elsewhere .*backbone.pretrained='http.*brings its own"
    ):
        load_model(path)
    spec = {**genuine("faster_rcnn").header["model"], "backbone": {**BACKBONE, "pretrained": True}}
    with pytest.raises(ValueError, match="building a model from a spec never looks for weights"):
        build_model(spec, num_classes=2, preprocessing=Preprocessing())


REFUSED = [
    ({"model.backbone.blocks": [3000, 1, 1, 1]}, "far larger than the"),
    ({"model.backbone.widths": [4, 4, 8, 200_000]}, "far larger than the|not those of the model"),
    ({"model.pyramid.channels": 10**6}, "far larger than the"),
    ({"model.box_representation_size": 10**9}, "far larger than the|cannot be built"),
    ({"model.box_linears": 100_000}, "far larger than the"),
    ({"model.backbone": {"name": "torchvision", "model": "regnet_y_128gf"}}, "far larger|not those of the model"),
    ({"model.pyramid.channels": 10**12}, "holds the number 1000000000000"),
    ({"model.backbone.blocks": "many"}, "resnet: blocks='many' must be a list of whole numbers"),
    ({"model.score_threshold": "high"}, "model.score_threshold='high' must be a number"),
    ({"model.score_threshold": float("nan")}, "holds the number nan"),
    ({"model.anchor_ratios": 3}, "model.anchor_ratios=3 must be a list of numbers"),
    ({"model.name": ["faster_rcnn"]}, "describes an unknown model"),
    ({"model.name": "classifier"}, "describes a classifier, which is not a model of task=detection"),
    ({"model.backbone.name": ["resnet"]}, "no backbone is called"),
    ({"model.backbone": "resnet18"}, "describes no backbone"),
    ({"model": []}, r"model=\[\] must be names with values"),
    ({"task": ["detection"]}, r"task=\['detection'\] must be text"),
    ({"class_names": "cat"}, "class_names='cat' must be a list of texts"),
    ({"class_names": ["cat", 3]}, "must be a list of texts"),
    ({"class_names": []}, "has 0 class_names and 2 category_ids"),
    ({"category_ids": [1]}, "has 2 class_names and 1 category_ids"),
    ({"category_ids": ["1", "2"]}, "must be a list of whole numbers"),
    ({"preprocessing.pad_multiple": 0}, "pad_multiple=0 must be between 1 and"),
    ({"preprocessing.mean": [float("nan"), 0.0, 0.0]}, "nan, which must be finite"),
    ({"preprocessing.std": [0.0, 1.0, 1.0]}, "above 0"),
    ({"preprocessing.mean": [0.0]}, "preprocessing.mean=.* must be a list of 3 numbers"),
    ({"preprocessing.size": 3}, "preprocessing has no setting 'size'"),
    ({"preprocessing.short_side": 10**6, "preprocessing.max_size": 10**6}, "max_size=1000000 must be between"),
    ({"metrics": {"AP": "good"}}, "metrics that are not numbers"),
    ({"format_version": True}, "has format version True"),
    ({"format_version": "1"}, "has format version '1'"),
    ({"more": 1}, "has the unknown more"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), REFUSED, ids=lambda value: str(value)[:50])
def test_a_wrong_header_is_a_sentence_soon(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = written(tmp_path, "faster_rcnn", changes)
    started = time.process_time()
    with pytest.raises(ValueError, match=message) as caught:
        load_model(path)
    assert time.process_time() - started < 3
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_missing_keys_and_deep_json(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    header = {key: value for key, value in genuine("classifier").header.items() if key != "class_names"}
    deep = {"provenance": json.loads("[" * 30 + "]" * 30)}
    for text, message in (
        (json.dumps(header), "lacks class_names"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({**genuine("classifier").header, **deep}), "nested too deeply"),
        (json.dumps({**genuine("classifier").header, "provenance": {"x": [0] * 300_000}}), "more than 200000 values"),
        (json.dumps([1]), "its header is a list"),
        ("{", "header is not JSON"),
        ('{"x": ' + "9" * 5000 + "}", "header is not JSON"),
    ):  # fmt: skip
        save_file(genuine("classifier").tensors, path, metadata={METADATA_KEY: text})
        with pytest.raises(ValueError, match=message):
            load_model(path)


def test_a_hundred_thousand_empty_tensors(tmp_path: Path) -> None:
    path = written(tmp_path, "classifier", **{f"t{n}": torch.empty(0) for n in range(100_000)})
    started = time.process_time()
    with pytest.raises(ValueError, match="holds 1000.. tensors, and at most 10000 are read"):
        load_model(path)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_weights_that_are_not_finite_are_said(value: float, suffix: str, tmp_path: Path) -> None:
    bad = genuine("classifier").tensors["head.weight"].clone()
    bad[0, 0] = value
    if suffix == ".ckpt":
        state = {f"model.{key}": tensor for key, tensor in genuine("classifier").tensors.items()}
        path = tmp_path / "last.ckpt"
        torch.save(
            {METADATA_KEY: genuine("classifier").header, "state_dict": state | {"model.head.weight": bad}},
            path,
        )
    else:
        path = written(tmp_path, "classifier", **{"head.weight": bad})
    with pytest.raises(
        ValueError, match="weights that are not finite, in 1 of its .*head.weight.*earlier checkpoint"
    ):
        load_predictor(path)
    torch.save({"conv1.weight": torch.full((4, 3, 7, 7), value)}, tmp_path / "x.pth")
    with pytest.raises(ValueError, match="not finite"):
        backbones.create(**BACKBONE, pretrained=str(tmp_path / "x.pth"))


def test_few_numbers_spread_over_a_giant_tensor(tmp_path: Path) -> None:
    """1 kB of a file that claims 40 GB."""
    state = {f"model.{key}": tensor for key, tensor in genuine("classifier").tensors.items()}
    state["model.head.weight"] = torch.zeros(1).expand(100_000, 100_000)
    torch.save({METADATA_KEY: genuine("classifier").header, "state_dict": state}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="would take 40000 MB, more than the file can hold"):
        load_model(tmp_path / "x.ckpt")


def test_a_compressed_checkpoint_is_not_unfolded(tmp_path: Path) -> None:
    import zipfile

    torch.save({"state_dict": {"x": torch.zeros(10**6)}}, tmp_path / "x.ckpt")
    with zipfile.ZipFile(tmp_path / "x.ckpt") as source, zipfile.ZipFile(
        tmp_path / "bomb.ckpt", "w", zipfile.ZIP_DEFLATED
    ) as bomb:  # fmt: skip
        for member in source.infolist():
            bomb.writestr(member.filename, source.read(member))
    with pytest.raises(ValueError, match="compressed or encrypted, which torch.save never does"):
        load_model(tmp_path / "bomb.ckpt")


def test_names_that_torch_compile_gave_are_ours(tmp_path: Path) -> None:
    tensors = {
        key.replace("backbone.", "backbone._orig_mod.", 1): value
        for key, value in genuine("faster_rcnn").tensors.items()
    }
    path = tmp_path / "model.safetensors"
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(genuine("faster_rcnn").header)})
    for key, value in load_model(path).state_dict().items():
        assert torch.equal(value, genuine("faster_rcnn").tensors[key])
    plain = backbones.create(**BACKBONE)
    torch.save({f"_orig_mod.{key}": value for key, value in plain.state_dict().items()}, tmp_path / "x.pth")
    loaded = backbones.create(**BACKBONE, pretrained=str(tmp_path / "x.pth"))
    for key, value in plain.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[key])


def test_the_folder_of_a_run_means_its_model(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(
        ValueError, match="run is a folder without a model; a run's folder has one of model.safetensors"
    ):
        load_model(run)
    written(run, "classifier")
    assert load_predictor(run, device="cpu").header.class_names == ["cat", "dog"]
    backbones.load_backbone(run)


@pytest.mark.parametrize(
    ("picture", "message"),
    [
        (torch.zeros(3, 8, 8), "a Tensor is not a picture; give a path"),
        (None, "a NoneType is not a picture"),
        (b"\xff\xd8", "a bytes is not a picture"),
        ([None], "a NoneType is not a picture"),
        ([torch.zeros(3, 8, 8)], "a Tensor is not a picture"),
        (np.zeros((8, 8, 4), np.uint8), "wanted an RGB array"),
    ],
    ids=lambda value: str(type(value)),
)
def test_what_is_not_a_picture(picture: Any, message: str, tmp_path: Path) -> None:
    predictor = load_predictor(written(tmp_path, "classifier"), device="cpu")
    with pytest.raises(ValueError, match=message):
        predictor(picture)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": -1}, "batch_size=-1 must be a whole number of pictures, at least 1"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"precision": "fp16"}, "precision=fp16 is unknown; wanted one of .*; for fp16 give 16-mixed"),
        (
            {"precision": "16-mixed"},
            "precision=16-mixed is for training; predictions take 32-true, bf16-mixed",
        ),
        ({"device": "gpu0"}, "device='gpu0' is not a device"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_predictor(written(tmp_path, "classifier"), **{"device": "cpu", **options})


def test_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    count = torch.cuda.device_count()
    with pytest.raises(
        ValueError, match=f"device=cuda:{count}: torch sees .* on this machine; give cpu or auto"
    ):
        load_predictor(written(tmp_path, "classifier"), device=f"cuda:{count}")
