"""What holds for every task: any backbone fits it, its file needs nothing else, its backbone starts the others."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import backbones
import tasks
from tasks.cli.compose import compose
from tasks.cli.evaluate import evaluate
from tasks.cli.train import train
from tasks.contracts import Batch, Classification, Detections, Model, PixelScores
from tasks.data.loading.collate import collate
from tasks.preprocessing import Preprocessing
from tasks.targets import ObjectMask, Target
from tasks.zoo.model_file import Header, load_model, save_model
from tasks.zoo.registry import build_model, resolved_spec
from tasks.zoo.transfer import transfer

NUM_CLASSES = 3
SIDE = 64
# One of each family that `available()` lists, and the adapters' transformers and networks of other libraries.
FAMILIES = {
    "resnet": {"name": "resnet18"},
    "resnet, bottleneck": {"name": "resnet50"},
    "resnet d": {"name": "resnet18d"},
    "resnext": {"name": "resnext50_32x4d"},
    "wide": {"name": "wide_resnet50_2"},
    "cifar": {"name": "cifar_resnet20"},
    "plain": {"name": "plain_resnet18"},
    "plain cifar": {"name": "plain_cifar_resnet20"},
    "vgg": {"name": "vgg11"},
    "vgg_bn": {"name": "vgg11_bn"},
    "any depth": {"name": "resnet", "blocks": [1, 1, 1, 1], "block": "basic"},
    "timm densenet": {"name": "timm", "model": "densenet121"},
    "timm efficientnet": {"name": "timm", "model": "efficientnet_lite0"},
    "timm convnext": {"name": "timm", "model": "convnext_atto"},
    "timm swin": {"name": "timm", "model": "swin_tiny_patch4_window7_224"},
    "timm vit": {"name": "timm", "model": "vit_tiny_patch16_224", "model_options": {"depth": 4}},
    "torchvision": {"name": "torchvision", "model": "mobilenet_v3_small"},
}
MODELS = {
    "classification": {"name": "classifier"},
    "detection": {"name": "faster_rcnn", "box_representation_size": 32},
    "instance_segmentation": {"name": "mask_rcnn", "box_representation_size": 32, "mask_width": 8},
    "semantic_segmentation": {"name": "semantic_fpn", "channels": 8},
}
PREDICTIONS = {
    "classification": Classification,
    "detection": Detections,
    "instance_segmentation": Detections,
    "semantic_segmentation": PixelScores,
}


@functools.cache
def batch_for(task: str) -> Batch:
    """Two noisy images of two sizes: one with two objects, one without any."""
    generator = np.random.default_rng(0)
    samples = []
    for image_id, height in enumerate((SIDE, SIDE - 8)):
        image = generator.integers(0, 256, (height, SIDE, 3), np.uint8)
        boxes = np.float32([[4, 4, 40, 44], [20, 8, 60, 50]])[: 2 - 2 * image_id]
        target = Target(
            image_id=image_id,
            original_size=(height, SIDE),
            boxes=boxes,
            labels=np.arange(len(boxes)),
            is_crowd=np.zeros(len(boxes), bool),
        )
        if task == "classification":
            target.class_id = image_id
        elif task == "instance_segmentation":
            target.masks = [
                ObjectMask(int(x), int(y), np.ones((int(y2 - y), int(x2 - x)), np.uint8))
                for x, y, x2, y2 in boxes
            ]
        elif task == "semantic_segmentation":
            target.class_map = generator.integers(0, NUM_CLASSES, (height, SIDE)).astype(np.uint8)
        samples.append((image, target))
    return collate(samples, Preprocessing(short_side=None))


def pyramid_for(backbone: dict, task: str) -> dict | None:
    """The usual pyramid, and for a plain transformer, which gives one map, the one that is made for it."""
    if task == "classification":
        return None
    return {"name": "simple" if "vit" in str(backbone.get("model")) else "fpn", "channels": 16}


def build(task: str, backbone: dict) -> Model:
    torch.manual_seed(0)
    spec = {**MODELS[task], "backbone": backbone, "pyramid": pyramid_for(backbone, task)}
    preprocessing = Preprocessing(short_side=None)
    model = build_model(spec, num_classes=NUM_CLASSES, preprocessing=preprocessing)
    model.header = Header(
        task=task,
        model=resolved_spec(spec, model),
        class_names=["a", "b", "c"],
        category_ids=[1, 2, 3],
        preprocessing=preprocessing.to_dict(),
    )
    return model


def test_every_family_is_here() -> None:
    """A name that `available()` gains must be of one of the families above."""
    stems = ("resnet", "resnext", "wide_resnet", "cifar_resnet", "vgg")
    for name in backbones.available():
        assert name.removeprefix("plain_").startswith(stems), f"{name}: add its family to FAMILIES"


@pytest.mark.slow
@pytest.mark.parametrize("task", MODELS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_backbone_fits_every_task(family: str, task: str) -> None:
    model = build(task, FAMILIES[family])
    batch = batch_for(task)
    losses = model.losses(model.features(batch), batch)
    torch.stack(list(losses.values())).sum().backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    unused = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert unused == []  # or several GPUs could not train it
    with torch.inference_mode():
        assert isinstance(model.eval()(batch), PREDICTIONS[task])


@pytest.mark.parametrize("source", MODELS)
def test_the_backbone_of_each_task_starts_each_other(source: str, tmp_path) -> None:
    """Through the file: into the bare extractor and into the models of all four tasks."""
    path = tmp_path / "model.safetensors"
    own = build(source, FAMILIES["any depth"])
    for parameter in own.parameters():
        torch.nn.init.normal_(parameter)  # nothing is equal by its initialisation
    save_model(path, own, own.header)
    bare = getattr(own.backbone, "backbone", own.backbone).state_dict()
    loaded = backbones.load_backbone(path, pyramid=False).state_dict()
    assert loaded.keys() == bare.keys()
    assert all(torch.equal(loaded[key], bare[key]) for key in bare)
    for task in MODELS:
        other = build(task, FAMILIES["any depth"])
        moved = transfer(other, load_model(path))
        assert moved.backbone[0] == moved.backbone[1] > 0
        theirs = getattr(other.backbone, "backbone", other.backbone).state_dict()
        assert all(torch.equal(theirs[key], bare[key]) for key in bare)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """A model file of each task, of random weights that predict something."""
    folder, found = tmp_path_factory.mktemp("files"), {}
    for task in MODELS:
        model = build(task, FAMILIES["any depth"])
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
        found[task] = folder / f"{task}.safetensors"
        save_model(found[task], model, model.header)
    return found


def test_a_fresh_process_elsewhere_predicts_the_same(files: dict[str, Path], tmp_path: Path) -> None:
    image = np.random.default_rng(1).integers(0, 256, (60, 80, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    code = (
        "import json, sys, tasks\n"
        "options = {'device': 'cpu', 'precision': '32-true'}\n"
        "print(json.dumps([tasks.load_predictor(f, **options)('a.png').to_dict() for f in sys.argv[1:]]))"
    )
    command = [sys.executable, "-c", code, *map(str, files.values())]
    environment = {**os.environ, "PYTHONPATH": str(Path(tasks.__file__).parents[1])}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert result.returncode == 0, result.stderr
    for path, elsewhere in zip(files.values(), json.loads(result.stdout), strict=True):
        here = tasks.load_predictor(path, device="cpu", precision="32-true")(image).to_dict()
        assert json.loads(json.dumps(here)) == elsewhere, path.stem
        assert any(here.values()), f"{path.stem} predicts nothing, so that nothing was compared"


def test_a_file_of_another_task_is_named(files: dict[str, Path], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [f"checkpoint={files['classification']}", "task=detection"]
    with pytest.raises(ValueError, match="is a model for task=classification, not for task=detection; leave"):
        evaluate(compose("evaluate", words))
    with pytest.raises(
        ValueError, match="classification needs a class for each image, which DigitsData does"
    ):
        evaluate(compose("evaluate", [words[0], "data=digits"]))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", ["instance_segmentation", "semantic_segmentation"])
def test_coco_boxes_without_masks_stop_before_a_folder_is_made(task: str, tmp_path, monkeypatch) -> None:
    content = {
        "images": [{"id": 1, "file_name": "x.png", "width": 8, "height": 8}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 4, 4], "area": 16, "iscrowd": 0}
        ],
        "categories": [{"id": 1, "name": "cat"}],
    }
    data = tmp_path / "data"
    (data / "annotations").mkdir(parents=True)
    for split, colour in (("train2017", "red"), ("val2017", "blue")):
        (data / split).mkdir()
        Image.new("RGB", (8, 8), colour).save(data / split / "x.png")
        (data / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    with pytest.raises(ValueError, match="train split has boxes but no masks.*task=detection"):
        train(
            compose(
                "train",
                [f"task={task}", "data=coco", f"data.root={data}", "loader.batch_size=1", "pretrained=false"],
            )
        )
    assert list(work.iterdir()) == []


def test_data_without_masks_stops_before_a_folder_is_made(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="needs a mask for each object, which SingleDigitsData does not have"
    ):
        train(compose("train", ["task=instance_segmentation", "data=single_digits"]))
    assert list(tmp_path.iterdir()) == []
