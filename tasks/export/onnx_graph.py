"""A network as an ONNX graph: traced by torch.export, with the one operator that ONNX has under another name.

Legend:
    B  images     P  boxes of an image, padding included     G  groups of boxes, such as classes
"""

import warnings
from typing import Any

import onnx
import torch
from onnxscript import opset20

from .graph import INPUTS, NetworkGraph, example

OPSET = 20
op: Any = opset20  # whose types are those of values, and not of what stands for them in a graph


def network_onnx(network: NetworkGraph) -> onnx.ModelProto:
    """The graph of a network. Batch, height and width are left open."""
    images, sizes = example(network)
    operators: Any = torch.ops
    table: dict[Any, Any] = {operators.aten.sort.stable: sort}
    if hasattr(operators.vertebra, "suppress"):  # detectors bring it along
        table[operators.vertebra.suppress.default] = suppress
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the exporter, about its own dependencies
        program = torch.onnx.export(
            network,
            (images, sizes),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(INPUTS),
            output_names=network.output_names(),
            dynamic_shapes=network.dynamic_shapes(),
            custom_translation_table=table,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


def suppress(boxes: Any, scores: Any, groups: Any, num_groups: int, iou_threshold: float) -> Any:
    """`tasks.detection.suppression.suppress_images` by ONNX's operator, which keeps images and groups apart itself, so
    that no box is shifted and no digit lost."""
    lowest = -1e38
    groups_of_all = op.Constant(value_ints=list(range(num_groups)))
    is_in = op.Equal(
        op.Unsqueeze(groups, op.Constant(value_ints=[1])),
        op.Unsqueeze(groups_of_all, op.Constant(value_ints=[0, 2])),
    )  # (B, G, P)
    scores = op.Unsqueeze(scores, op.Constant(value_ints=[1]))
    by_group = op.Where(is_in, scores, op.Constant(value_float=2 * lowest))
    most = op.Shape(groups, start=1, end=2)
    kept = op.NonMaxSuppression(
        boxes,
        by_group,
        most,
        op.Constant(value_floats=[iou_threshold]),
        op.Constant(value_floats=[lowest]),
    )  # rows of image, group, box
    rows = op.Gather(kept, op.Constant(value_ints=[0, 2]), axis=1)
    yes = op.Expand(op.Constant(value_ints=[1]), op.Shape(kept, start=0, end=1))
    no = op.Expand(op.Constant(value_int=0), op.Shape(groups))
    return op.Cast(op.ScatterND(no, rows, yes), to=onnx.TensorProto.BOOL)


def sort(values: Any, stable: bool | None = None, dim: int = -1, descending: bool = False) -> tuple[Any, Any]:
    """`torch.sort`; of equal values ONNX's operator gives the first one first."""
    shape = op.Shape(values)
    size = op.Gather(shape, op.Constant(value_ints=[dim]))
    return op.TopK(values, size, axis=dim, largest=int(descending), sorted=1)
