"""Every family of backbones fits every task: one training step and a prediction of each pair."""

import functools

import numpy as np
import pytest
import torch

import backbones
from tasks.contracts import Batch, Classification, Detections, Model, ObjectMask, PixelScores, Target
from tasks.data.collate import collate
from tasks.harness.architectures import build_model, resolved_spec
from tasks.harness.model_file import Header, load_model, save_model
from tasks.preprocessing import Preprocessing

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
    from tasks.harness.transfer import transfer

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
