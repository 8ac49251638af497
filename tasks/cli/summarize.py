"""`vertebra summarize`: what networks cost and give: parameters, multiply-adds, activation memory, maps."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tasks.cli.nodes import as_list
from tasks.cli.output import Found, say_result, write_rows

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from torch import nn

    from backbones import FeatureExtractor

BATCH = 2  # batch norm in training refuses a map of one number; all that is told is of one image
IMAGENET_SIZE, CIFAR_SIZE = (224, 224), (32, 32)
NOTES = """Multiply-adds are those of convolutions and matrix products. Memory is what
training keeps of one image for the backward pass, in float32. "Whole" is with a
classifier: for VGG the paper's three layers (4096, 4096, 1000), for all others one
on the mean of the last map (1000 classes; for CIFAR's networks 10)."""


def summarize_networks(config: DictConfig) -> Found:
    """Prints what `config.networks` or `config.models` cost at `config.size`, and writes `config.json` if it is set."""
    names, sizes = ([str(v) for v in as_list(value)] for value in (config.networks, config.size))
    if models := [str(name) for name in as_list(config.models)]:
        return Found({"models": summarize_models(models, sizes, config.json)})
    if not names:
        raise ValueError("nothing to summarize; give networks=[resnet50,vgg16] or models=[faster_rcnn,fcos]")
    networks = [parse_network(name) for name in names]
    rows = [
        {"network": name, **summarize(build(*network), size)}
        for name, network in zip(names, networks, strict=True)
        for size in ([parse_size(text) for text in sizes] or [None])
    ]
    write_rows(config.json, rows)
    say_result(f"{cost_table(rows)}\n\n{NOTES}\n\n{feature_table(rows)}")
    return Found({"networks": rows})


def summarize_models(names: list[str], sizes: list[str], json_file: Any) -> list[dict[str, Any]]:
    """The same for whole models."""
    from tasks.cli.model_costs import NOTES, SIZE, model_costs, model_table

    if len(sizes) > 1:
        raise ValueError(f"size={','.join(sizes)}: models are told of at one size; give one")
    size = parse_size(sizes[0]) if sizes else SIZE
    rows = [{**model_costs(name, size), "height": size[0], "width": size[1]} for name in names]
    write_rows(json_file, rows)
    say_result(f"At {size[0]}x{size[1]}:\n\n{model_table(rows)}\n\n{NOTES}")
    return rows


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of "224" or "800x1344"."""
    if not re.fullmatch(r"[1-9]\d{0,4}(x[1-9]\d{0,4})?", text):
        raise ValueError(f"size={text} is not a size; give pixels as 224, or height and width as 800x1344")
    height, _, width = text.partition("x")
    return int(height), int(width or height)


def parse_network(text: str) -> tuple[str, dict[str, Any]]:
    """Name and options of "resnet50,output_stride=8,pyramid=fpn". Commas within brackets belong to a value."""
    name, *words = re.split(r",(?![^\[(]*[\])])", text)
    options = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ValueError(f"cannot read {word!r} in {text!r}; give options as {name},option=value")
        options[key] = _plain_value(value)
    return name, options


def _plain_value(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False", "null": "None"}.get(text, text))
    except (ValueError, SyntaxError):
        return text


def build(name: str, options: dict[str, Any]) -> FeatureExtractor:
    """The extractor without memory for its weights. Raises `ValueError` for an unknown name or option."""
    import torch

    import backbones

    options = dict(options)
    pyramid = options.pop("pyramid", None)
    if options.pop("pretrained", False):
        raise ValueError(f"pretrained changes nothing of what is told of {name}; leave it out")
    with torch.device("meta"):
        extractor = backbones.create(name, **options)
        return extractor if pyramid is None else backbones.create_pyramid(extractor, name=pyramid)


def summarize(extractor: FeatureExtractor, size: tuple[int, int] | None = None) -> dict[str, Any]:
    """What `extractor`, on the meta device, costs for one image of `size` (height, width) and gives.

    Without a size it is the one its classifier is usually trained on. Counts of the classifier are None for
    a pyramid, which has none.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    height, width = size or (CIFAR_SIZE if "c0" in extractor.feature_info else IMAGENET_SIZE)
    images = torch.empty(BATCH, extractor.in_channels, height, width, device="meta")
    saved: dict[int, torch.Tensor] = {}  # by storage; the tensors stay, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage()._cdata] = tensor
        return tensor

    own = {t.untyped_storage()._cdata for t in (*extractor.parameters(), *extractor.buffers())}
    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t),
    ):
        maps = extractor.train()(images)
    activation = sum(t.untyped_storage().nbytes() for key, t in saved.items() if key not in own)
    head = classifier(extractor)
    with FlopCounterMode(display=False) as head_counter:
        if head is not None:
            head(torch.empty(BATCH, *next(head.parameters()).shape[1:], device="meta"))
    return {
        "height": height,
        "width": width,
        "parameters": count_parameters(extractor),
        "classifier_parameters": None if head is None else count_parameters(head),
        "multiply_adds": counter.get_total_flops() // (2 * BATCH),
        "classifier_multiply_adds": None if head is None else head_counter.get_total_flops() // (2 * BATCH),
        "activation_bytes": activation // BATCH,
        "features": [
            {"level": level, **info._asdict(), "height": maps[level].shape[2], "width": maps[level].shape[3]}
            for level, info in extractor.feature_info.items()
        ],
    }


def count_parameters(module: nn.Module) -> int:
    """Numbers in all parameters, frozen ones too."""
    return sum(parameter.numel() for parameter in module.parameters())


def classifier(extractor: FeatureExtractor) -> nn.Module | None:
    """The layers behind the last map, which VGG's take flat as 7 x 7 cells and others as its mean."""
    from torch import nn

    from backbones import VGG

    level, info = list(extractor.feature_info.items())[-1]
    if not level.startswith("c"):
        return None
    if isinstance(extractor, VGG):
        sides = [info.channels * 7 * 7, 4096, 4096, 1000]
    else:
        sides = [info.channels, 10 if "c0" in extractor.feature_info else 1000]
    layers = [nn.Linear(a, b, device="meta") for a, b in pairwise(sides)]
    return nn.Sequential(*layers)


def cost_table(rows: list[dict[str, Any]]) -> str:
    """A line for each network and size: what it costs, alone and with its classifier."""
    width = max(len("network"), *(len(row["network"]) for row in rows))
    lines = [
        f"{'':{width}}             parameters, M    multiply-adds, G    kept, MiB",
        f"{'network':{width}}       size    alone    whole    alone    whole        alone",
    ]
    for row in rows:
        size = f"{row['height']}x{row['width']}"
        counts = [
            number
            for key, unit in (("parameters", 1e6), ("multiply_adds", 1e9))
            for number in _alone_and_whole(row[key], row[f"classifier_{key}"], unit)
        ]
        memory = row["activation_bytes"] / 2**20
        lines.append(
            f"{row['network']:{width}}  {size:>9}  {'  '.join(f'{c:>7}' for c in counts)}  {memory:11.1f}"
        )
    return "\n".join(lines)


def _alone_and_whole(alone: int, rest: int | None, unit: float) -> tuple[str, str]:
    return f"{alone / unit:.2f}", "–" if rest is None else f"{(alone + rest) / unit:.2f}"


def feature_table(rows: list[dict[str, Any]]) -> str:
    """A block for each network and size: the maps it gives."""
    blocks = []
    for row in rows:
        lines = [f"{row['network']} at {row['height']}x{row['width']}: level, channels, stride, map"]
        lines += [
            f"  {f['level']:<5}{f['channels']:>6}{f['stride']:>6}   {f['height']}x{f['width']}"
            for f in row["features"]
        ]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)
