"""A network as a `.pt2`: `torch.export` with operators of torch and torchvision alone."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from tasks.detection.suppression import suppress_by_torchvision

from .graph import NetworkGraph, example
from .proof import Arrays

METADATA_FILE = "vertebra.json"


def network_program(network: NetworkGraph) -> ExportedProgram:
    """The graph of a network. Batch, height and width are left open."""
    with torch.no_grad():
        program = torch.export.export(
            network, example(network), dynamic_shapes=network.dynamic_shapes(), strict=False
        )
        operators: Any = torch.ops.vertebra
        if not hasattr(operators, "suppress"):
            return program
        table: Any = {operators.suppress.default: suppress_by_torchvision}
        return program.run_decompositions(table)


def write_program(program: ExportedProgram, path: Path, metadata: str) -> None:
    """Writes the file with its metadata, a JSON text under the name of `METADATA_FILE`."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={METADATA_FILE: metadata})
    path.write_bytes(buffer.getvalue())


def open_program(path: Path, names: list[str]) -> Callable[[Arrays], Arrays]:
    """A function from inputs to outputs by name of the file, as another program would load it."""
    import torchvision.ops  # noqa: F401 (its operators)

    module = torch.export.load(io.BytesIO(path.read_bytes())).module()

    def run(inputs: Arrays) -> Arrays:
        with torch.inference_mode():
            found = module(torch.from_numpy(inputs["images"]), torch.from_numpy(inputs["sizes"]))
        return {name: value.numpy() for name, value in zip(names, found, strict=True)}

    return run


def smallest_side(program: ExportedProgram, step: int) -> int:
    """Pixels of the least height and width that the program takes."""
    ranges = [str(key) for key in program.range_constraints]
    lows = [
        int(limits.lower) * (step if f"{step}*{key}" in ranges else 1)
        for key, limits in program.range_constraints.items()
        if str(key).startswith("s") and int(limits.lower) > 1
    ]
    return max(lows, default=step)
