"""What torch.compile is given of a model computes the same, for images of any size with at most two recompilations.

Graphs are traced and not turned into code, which takes half a minute for each.
"""

import pytest
import torch
import torch._dynamo
from packaging.version import Version

from tasks.harness.compilation import any_size, compile_model
from tasks.harness.settings import TrainSettings
from tests.device.small_models import make_batch, small_model

# The last map of a pyramid, of stride 128, has more than one row: torch makes another graph for one.
SIZES = ((2, 160, 192), (2, 192, 160), (2, 160, 288), (4, 192, 160), (2, 256, 256), (4, 160, 192))
ODD_SIZES = pytest.mark.xfail(
    Version(torch.__version__) < Version("2.12"),
    reason="torch 2.11 makes a graph of its own for maps of odd sizes where they are pooled",
)
pytestmark = pytest.mark.filterwarnings(
    "ignore:Dynamo detected a call to a `functools.lru_cache`", "ignore:.*non-leaf Tensor.*"
)


def losses(model, batch):
    torch.manual_seed(0)  # of samples
    return model.losses(model.features(batch), batch)


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        pytest.param("semantic_fpn", "backbone", marks=ODD_SIZES),
        pytest.param("semantic_fpn", "step", marks=ODD_SIZES),
        ("retinanet", "dense"),
        pytest.param("retinanet", "step", marks=pytest.mark.slow),
        pytest.param("faster_rcnn", "dense", marks=pytest.mark.slow),
        pytest.param("faster_rcnn", "step", marks=pytest.mark.slow),
    ],
)
def test_any_size_with_two_recompilations(kind: str, part: str) -> None:
    torch._dynamo.reset()
    plain, compiled = small_model(kind).train(), small_model(kind).train()
    names = list(compiled.state_dict())
    traced = []

    def backend(graph, inputs):
        traced.append(graph)
        return graph.forward

    compile_model(compiled, part, backend=backend)
    assert list(compiled.state_dict()) == names
    with torch._dynamo.config.patch(recompile_limit=3, fail_on_recompile_limit_hit=True):
        for size in SIZES:
            batch = any_size(make_batch(*size, pin=False))  # with as many rows, as many numbers are drawn
            expected, found = losses(plain, batch), losses(compiled, batch)
            for name, value in expected.items():
                torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
            sum(found.values()).backward()
    assert traced
    assert all(p.grad is not None for p in compiled.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"compile": "model"}, "compile=model must be one of backbone, dense, step, or null"),
        ({"compile": "step", "compile_mode": "fast"}, "compile_mode=fast is unknown; .*default"),
        ({"compile_mode": "max-autotune"}, "nothing is compiled; give compile=backbone too"),
    ],
)
def test_settings_that_mean_nothing(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainSettings(**settings)


def test_settings_of_before_still_work() -> None:
    for value in (None, False, True, "backbone"):
        TrainSettings(compile=value)
