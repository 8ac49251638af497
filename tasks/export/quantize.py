"""An ONNX network in fp32 to one whose convolutions and linear layers compute in 8 bits.

Weights by channel, maps by the range that they have on images of a data set. What is said of classes and boxes in the
end stays in fp32: 256 steps are too few for a score.
"""

import logging
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto
from torch import Tensor

from tasks.contracts import Batch, Classification, Detections, Model, PixelScores

from .proof import Arrays

LAYERS = ("Conv", "Gemm", "MatMul", "ConvTranspose")
_DECISIONS = ("TopK", "NonZero", "NonMaxSuppression")  # what follows them depends on a choice, not on a value


def quantize(network: ModelProto, batches: Iterator[Batch]) -> ModelProto:
    """The network in 8 bits, with ranges of values from `batches`."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def get_next(self) -> Any:
            batch = next(batches, None)
            return None if batch is None else inputs_of(batch)

    with tempfile.TemporaryDirectory() as folder:
        plain, ready, small = (Path(folder) / f"{name}.onnx" for name in ("plain", "ready", "small"))
        onnx.save(network, plain)
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # each of its layers is news to the quantiser
        try:
            # Without it the factors of norms stay beside the weights.
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                small,
                Reader(),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=last_layers(onnx.load(ready)),
            )
        finally:
            root.setLevel(level)
        return onnx.load(small)


def last_layers(network: ModelProto) -> list[str]:
    """Names of the layers whose values reach no other layer, but by a choice that is made by them."""
    readers: dict[str, list[tuple[Any, int]]] = {}
    for node in network.graph.node:
        for place, name in enumerate(node.input):
            readers.setdefault(name, []).append((node, place))

    def reaches_layer(start: Any) -> bool:
        waiting, known = list(start.output), set(start.output)
        while waiting:
            for node, place in readers.get(waiting.pop(), ()):
                if node.op_type in _DECISIONS or (node.op_type == "RoiAlign" and place > 0):
                    continue
                if node.op_type in LAYERS:
                    return True
                waiting += [name for name in node.output if name not in known]
                known |= set(node.output)
        return False

    return [n.name for n in network.graph.node if n.op_type in LAYERS and not reaches_layer(n)]


def inputs_of(batch: Batch) -> Arrays:
    """The batch as the graph takes it."""
    return {"images": np.ascontiguousarray(batch.images.numpy()), "sizes": batch.sizes.numpy()}


class GraphModel(Model):
    """A file in the place of the model that it was exported from, for whoever scores it."""

    def __init__(self, model: Model, run: Callable[[Arrays], Arrays]):
        super().__init__()
        self.preprocessing, self.header = model.preprocessing, model.header
        self.backbone = model.backbone
        self.run = run

    def features(self, batch: Batch) -> Batch:
        return batch

    def losses(self, features: Batch, batch: Batch) -> dict[str, Tensor]:
        raise NotImplementedError("a file has no losses")

    def predictions(self, features: Batch, batch: Batch) -> Detections | Classification | PixelScores:
        found = {name: torch.from_numpy(value) for name, value in self.run(inputs_of(batch)).items()}
        if "boxes" in found:
            return Detections(**found)
        if found["logits"].ndim == 2:
            return Classification(found["logits"])
        return PixelScores(found["logits"], (batch.images.shape[2], batch.images.shape[3]))
