"""`vertebra summarize models=…`: what whole models cost, and what their published weights score."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from tasks.cli.tables import Column, table

if TYPE_CHECKING:
    from tasks.contracts import Model

NUM_CLASSES = 80
SIZE = (800, 1344)
NOTES = """As the last published weights have it, else on a ResNet-50, for 80 classes.
Multiply-adds are of convolutions and matrix products from one picture to
detections or class maps; of a mask head, for as many objects as it may find."""


def model_costs(name: str, size: tuple[int, int]) -> dict[str, Any]:
    """Parameters, multiply-adds of one picture of `size` (height, width) and published scores of the model `name`.

    Raises ValueError for an unknown name.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tasks.export.graph import batch_of
    from tasks.zoo.pretrained import PUBLISHED

    model = untrained(name).eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randint(256, (1, 3, *size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), _shapes_of_convolutions(), FlopCounterMode(display=False) as counter:
        model(batch_of(images, torch.tensor([size])))
    return {
        "model": name,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
        "published": {tag: dict(entry.metrics) for tag, entry in PUBLISHED.get(name, {}).items()},
    }


def _shapes_of_convolutions() -> AbstractContextManager[Any]:
    """Inside, a convolution gives noise of its output's shape: the count is the same, in a fraction of the time."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    noise = torch.Generator().manual_seed(0)

    class Shapes(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func is not torch.ops.aten.convolution.default:
                return func(*args, **(kwargs or {}))
            on_meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in args]
            shape = func(*on_meta, **(kwargs or {})).shape
            return torch.randn(shape, generator=noise)

    return Shapes()


def untrained(name: str) -> Model:
    """The network of the last published weights of `name`, or the usual one on a ResNet-50, with random weights."""
    from tasks.preprocessing import Preprocessing
    from tasks.zoo.pretrained import PUBLISHED
    from tasks.zoo.registry import build_model, known_options, model_builder, task_of
    from tasks.zoo.task_specs import MODEL_SPECS, TASK_SPECS, merged

    model_builder(name)  # says which there are
    if published := list(PUBLISHED.get(name, {}).values()):
        spec = {"backbone": published[-1].backbone, "pyramid": published[-1].pyramid, **published[-1].options}
    else:
        pyramid = TASK_SPECS[task_of(name)].pyramid
        usual = {"name": pyramid} if pyramid else None
        spec = {"backbone": {"name": "resnet50", "norm": "frozen"}, "pyramid": usual}
        spec = merged(spec, MODEL_SPECS[name].parts)
    if "score_threshold" in known_options(model_builder(name)):
        spec["score_threshold"] = 0.0  # as many objects as there may be
    return build_model({"name": name, **spec}, num_classes=NUM_CLASSES, preprocessing=Preprocessing())


def model_table(rows: list[dict[str, Any]]) -> str:
    """A line for each model."""
    cells = []
    for row in rows:
        scores = "; ".join(
            f"{tag} {', '.join(f'{name} {value:.3f}' for name, value in metrics.items())}"
            for tag, metrics in row["published"].items()
        )
        costs = f"{row['parameters'] / 1e6:.1f}", f"{row['multiply_adds'] / 1e9:.0f}"
        cells.append((row["model"], *costs, scores or "–"))
    titles = Column("parameters, M", right=True), Column("multiply-adds, G", right=True)
    return table(["model", *titles, "published, COCO val2017"], cells)
