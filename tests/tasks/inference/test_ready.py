"""A model made ready to predict says what it said before, to the bit, and the one that it was made of is untouched."""

import pytest
import torch

from backbones.layers import _KEPT, keep_folded
from tasks.devices import autocast
from tasks.inference.ready import ready_model
from tests.device.small_models import make_batch, small_model

KINDS = ["classifier", "deeplabv3", "faster_rcnn ciou", "mask_rcnn", "retinanet giou", "yolox"]


def values(found) -> list[torch.Tensor]:
    return [value for value in vars(found).values() if isinstance(value, torch.Tensor)]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("kind", KINDS)
def test_predicts_the_same_to_the_bit(kind: str, precision: str) -> None:
    model, device = small_model(kind).eval(), torch.device("cpu")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    ready = ready_model(model, device)
    for size in ((64, 96), (96, 64), (64, 96)):
        batch = make_batch(2, *size, pin=False)
        with torch.inference_mode(), autocast(precision, device):
            expected, found = values(model(batch)), values(ready(batch))
        assert all(map(torch.equal, expected, found))
    assert all(value.equal(before[key]) for key, value in model.state_dict().items())
    kept = [module.__dict__[_KEPT] for module in ready.modules() if module.__dict__.get(_KEPT)]
    assert len(kept) >= 5 and all(len(found) == 1 for found in kept)
    if precision == "bf16-mixed":
        assert any(parameter.dtype == torch.bfloat16 for parameter in ready.parameters())


def test_nothing_is_kept_with_gradients_or_afterwards() -> None:
    model, batch = small_model("classifier").eval(), make_batch(1, 64, 64, pin=False)
    conv = model.backbone.conv1
    with keep_folded(model):
        model(batch).logits.sum().backward()
        assert conv.weight.grad is not None and conv.__dict__[_KEPT] == {}
        with torch.no_grad():
            model(batch)
        assert len(conv.__dict__[_KEPT]) == 1
        conv.weight.grad = None
        model(batch).logits.sum().backward()
        assert conv.weight.grad is not None
    assert _KEPT not in conv.__dict__
