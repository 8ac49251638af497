"""What `torch.compile` compiles of a model, for images of any size."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from backbones.checks import suggest
from tasks.contracts import Batch, Model

Part = Literal["backbone", "dense", "step"]
MODES = ("default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


def check_compile(part: object, mode: object) -> None:
    """Raises ValueError for a part of a model or a mode that there is not, and where torch would find no compiler."""
    if part not in (None, False, True, *get_args(Part)):
        raise ValueError(f"compile={part} must be one of {', '.join(get_args(Part))}, or null for none")
    if mode is not None and mode not in MODES:
        raise ValueError(f"compile_mode={mode} is unknown; {suggest(str(mode), MODES)}")
    if mode is not None and not part:
        raise ValueError(
            f"compile_mode={mode} says how to compile, and nothing is compiled; give compile=backbone too"
        )
    if part and not any(map(shutil.which, ("c++", "g++", "clang++", "cl"))):
        raise ValueError(
            f"compile={part} needs a C++ compiler, and neither g++ nor clang++ is on the PATH; install one or "
            "leave compile out"
        )


def compile_model(
    model: Model,
    part: str | bool | None,
    mode: str | None = None,
    *,
    backend: str | Callable[..., Any] = "inductor",
) -> None:
    """Has `part` of `model`, one of `Part`, compiled when it is first used; names of weights stay.

    Images are of any size from the start, so the second size is not compiled anew. What compiles badly is cut out of
    the graph by torch: suppression and whatever else must know a number.
    """
    options: dict[str, Any] = {"mode": mode, "backend": backend}
    if part in ("backbone", True):
        model.backbone.compile(**options)  # pyright: ignore[reportUnknownMemberType]
    elif part:
        compiled = torch.compile(model.features, **options)

        def features(batch: Batch) -> Any:
            return compiled(any_size(batch))

        vars(model)["features"] = features
        if part == "step":
            compiled_losses = torch.compile(model.losses, **options, dynamic=True)

            def losses(features: Any, batch: Batch) -> dict[str, Tensor]:
                return compiled_losses(features, any_size(batch))

            vars(model)["losses"] = losses


def any_size(batch: Batch) -> Batch:
    """The batch with at least two rows of objects, since a graph for one would be another; torch.compile is told
    which of its sizes change."""
    from torch._dynamo import maybe_mark_dynamic

    missing = 2 - batch.boxes.shape[1]
    if missing > 0:
        batch = replace(
            batch,
            boxes=F.pad(batch.boxes, (0, 0, 0, missing)),
            labels=F.pad(batch.labels, (0, missing), value=-1),
            is_crowd=F.pad(batch.is_crowd, (0, missing)),
            mask_places=None if batch.mask_places is None else F.pad(batch.mask_places, (0, 0, 0, missing)),
        )
    for dimension in (0, 2, 3):
        maybe_mark_dynamic(batch.images, dimension)
    maybe_mark_dynamic(batch.sizes, 0)
    for rows in (batch.boxes, batch.labels, batch.is_crowd, batch.mask_places):
        for dimension in (0, 1) if rows is not None else ():
            maybe_mark_dynamic(rows, dimension)
    return batch
