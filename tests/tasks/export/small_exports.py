"""Small networks that find something in every picture, with their headers."""

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.contracts import Model
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header
from tasks.zoo.registry import build_model, resolved_spec, task_of
from tests.device.small_models import BACKBONE, MODELS

NAMES = ["cat", "dog", "hen"]
WARNINGS = [
    pytest.mark.filterwarnings("ignore::FutureWarning"),  # of torch, about torchvision
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.export"),
]


def model_with_header(
    kind: str, preprocessing: Preprocessing | None = None, class_names: list[str] = NAMES
) -> Model:
    torch.manual_seed(0)
    preprocessing = preprocessing or Preprocessing(short_side=96, max_size=160)
    spec = {"name": kind.split()[0], "backbone": BACKBONE, **MODELS[kind]}
    model = build_model(spec, num_classes=len(class_names), preprocessing=preprocessing).eval()
    for name, parameter in model.named_parameters():  # says something else of each place
        if parameter.dim() > 1 and any(
            word in name for word in ("classes", "objectness", "quality", "head.weight")
        ):
            torch.nn.init.normal_(parameter, std=0.3)
    model.header = Header(
        task=task_of(spec["name"]),
        model=resolved_spec(spec, model),
        class_names=list(class_names),
        category_ids=[1, 3, 7] if class_names is NAMES else list(range(len(class_names))),
        preprocessing=preprocessing.to_dict(),
    )
    return model


def pictures() -> list[Image.Image]:
    """RGB, grey, with transparency, 16 bits, and one that lies on its side."""
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (9, 12, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    image = Image.fromarray(pixels)
    deep = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    sideways = image.copy()
    sideways.getexif()[0x0112] = 6
    return [image, image.convert("L"), image.convert("RGBA"), deep, sideways]
