"""One picture through a network: our predictor, torchvision, and the exported file in ONNX Runtime and OpenVINO."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tasks.contracts import Batch
from tasks.export.graph import NetworkGraph
from tasks.export.onnx_graph import network_onnx
from tasks.export.proof import check_network
from tasks.export.quantize import inputs_of, quantize
from tasks.export.runtime import open_engine
from tasks.inference.ready import ready_model

from .pairs import classifier_pair, detector_pair, make_batch, to_images
from .timing import Result, in_precision, in_turns

CALIBRATION = 8
SPREAD = 1.0
"""Of a dense detector's logits: with more, scores of some images that are compared are all 1, and ranks are chance."""


def exported(arguments: Namespace) -> Iterator[Result]:
    """A result for each size."""
    for height, width in arguments.size:
        yield compare(arguments.model, height, width, arguments.repeats)


def compare(model: str, height: int, width: int, repeats: int) -> Result:
    """Exports the network called `model`, and times all that can run it on one image."""
    batch = make_batch(1, height, width, 1, masks=False)
    is_classifier = model == "resnet50"
    ours, theirs = classifier_pair() if is_classifier else detector_pair(model, batch, spread=SPREAD)
    ours.to(memory_format=torch.channels_last).eval()
    best = theirs.eval().to(memory_format=torch.channels_last)
    given = torch.stack(to_images(batch)) if is_classifier else to_images(batch)
    network = NetworkGraph(ours)
    graph = network_onnx(network)
    variants: dict[str, Callable[[], Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.onnx" for name in ("fp32", "int8")}
        onnx.save(graph, files["fp32"])
        images = (make_batch(1, height, width, 1, masks=False, seed=n) for n in range(CALIBRATION))
        onnx.save(quantize(graph, images), files["int8"])
        run, variants["ONNX Runtime fp32"] = of_file(files["fp32"], "onnxruntime", batch)
        check = str(check_network(network, run))
        _, variants["ONNX Runtime int8"] = of_file(files["int8"], "onnxruntime", batch)
        for precision in ("fp32", "bf16"):
            _, variants[f"OpenVINO {precision}"] = of_file(files["fp32"], "openvino", batch, precision)
        sizes = {name: path.stat().st_size for name, path in files.items()}
    pairs = []
    for precision in ("fp32", "bf16"):
        ready, before = f"ours {precision}", f"ours {precision}, before"
        other = f"torchvision {precision} channels_last"
        ready_ours = ready_model(ours, torch.device("cpu"))
        variants[ready] = in_precision(precision, "cpu", predict, ready_ours, batch)
        variants[before] = in_precision(precision, "cpu", predict, ours, batch)
        variants[other] = in_precision(precision, "cpu", predict, best, given)
        pairs += [(ready, before), (ready, other)]
    seconds, _ = in_turns(variants, repeats)
    rates = {name: round(1 / float(np.median(times)), 2) for name, times in seconds.items()}
    others = {
        "images_a_second": rates,
        "bytes": sizes,
        "int8_time": round(rates["ONNX Runtime fp32"] / rates["ONNX Runtime int8"], 3),
        "int8_size": round(sizes["int8"] / sizes["fp32"], 3),
    }
    setting = {"model": model, "size": f"{height}x{width}", "batch": 1}
    return Result("exported", setting, check, seconds, pairs, others)


def of_file(path: Path, engine: str, batch: Batch, precision: str = "fp32") -> tuple[Any, Callable[[], Any]]:
    """What runs the file, and a run of it on the batch."""
    run, _ = open_engine(path, engine, precision, torch.get_num_threads())
    inputs = inputs_of(batch)
    return run, lambda: run(inputs)


@torch.inference_mode()
def predict(model: Callable[..., Any], given: Any) -> Any:
    """What the model says, without gradients."""
    return model(given)
