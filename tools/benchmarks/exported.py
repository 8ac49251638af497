"""One picture through a network: our predictor, torchvision, and the exported file in ONNX Runtime and OpenVINO."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tasks.classification.classifier import classifier
from tasks.classification.torchvision_weights import load_torchvision_weights
from tasks.export.graph import NetworkGraph
from tasks.export.onnx_graph import network_onnx
from tasks.export.proof import check_network
from tasks.export.quantize import inputs_of, quantize
from tasks.export.runtime import open_engine
from tasks.inference.ready import ready_model

from .pairs import detector_pair, make_batch, to_images
from .timing import Result, in_turns
from .training import autocast

CALIBRATION = 8


def exported(arguments: Namespace) -> Iterator[Result]:
    """A result for each size."""
    for height, width in arguments.size:
        batch = make_batch(1, height, width, 1, masks=False)
        if arguments.model == "resnet50":
            ours, theirs = classifier_pair()
        else:
            ours, theirs = detector_pair(arguments.model, batch)
        ours.to(memory_format=torch.channels_last).eval()
        theirs.eval()
        network = NetworkGraph(ours)
        graph = network_onnx(network)
        with tempfile.TemporaryDirectory() as folder:
            files = {name: Path(folder) / f"{name}.onnx" for name in ("fp32", "int8")}
            onnx.save(graph, files["fp32"])
            images = (make_batch(1, height, width, 1, masks=False, seed=n) for n in range(CALIBRATION))
            onnx.save(quantize(graph, images), files["int8"])
            threads = torch.get_num_threads()
            engines = {
                "ONNX Runtime fp32": open_engine(files["fp32"], "onnxruntime", "fp32", threads)[0],
                "ONNX Runtime int8": open_engine(files["int8"], "onnxruntime", "fp32", threads)[0],
                "OpenVINO fp32": open_engine(files["fp32"], "openvino", "fp32", threads)[0],
                "OpenVINO bf16": open_engine(files["fp32"], "openvino", "bf16", threads)[0],
            }
            check = str(check_network(network, engines["ONNX Runtime fp32"]))
            sizes = {name: path.stat().st_size for name, path in files.items()}
            inputs = inputs_of(batch)
            variants: dict[str, Callable[[], Any]] = {
                name: (lambda run=run: run(inputs)) for name, run in engines.items()
            }
            pairs = []
            best = deepcopy(theirs).to(memory_format=torch.channels_last)
            given = to_images(batch)
            for precision in ("fp32", "bf16"):
                ready, before = f"ours {precision}", f"ours {precision}, before"
                fast = ready_model(ours, torch.device("cpu"))
                variants[ready] = in_precision(lambda fast=fast: fast(batch), precision)
                variants[before] = in_precision(lambda: ours(batch), precision)
                theirs_given = (torch.stack(given),) if arguments.model == "resnet50" else (given,)
                other = f"torchvision {precision} channels_last"
                variants[other] = in_precision(lambda args=theirs_given: best(*args), precision)
                pairs += [(ready, before), (ready, other)]
            seconds, _ = in_turns(variants, arguments.repeats)
        rates = {name: round(1 / float(np.median(times)), 2) for name, times in seconds.items()}
        setting = {"model": arguments.model, "size": f"{height}x{width}", "batch": 1}
        others = {
            "images_a_second": rates,
            "bytes": sizes,
            "int8_time": round(rates["ONNX Runtime fp32"] / rates["ONNX Runtime int8"], 3),
            "int8_size": round(sizes["int8"] / sizes["fp32"], 3),
        }
        yield Result("exported", setting, check, seconds, pairs, others)


def in_precision(run: Callable[[], Any], precision: str) -> Callable[[], Any]:
    """`run` without gradients under a precision."""

    def once() -> Any:
        with torch.inference_mode(), autocast(precision, "cpu"):
            return run()

    return once


def classifier_pair() -> tuple[Any, Any]:
    """ResNet-50 of ours and of torchvision with the same weights."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = resnet50(weights=None)
    ours = classifier(num_classes=1000, backbone={"name": "resnet50"})
    load_torchvision_weights(ours, theirs.state_dict())
    return ours, theirs
