"""What training chooses where the settings leave it open, each with the sentence that says so: the batch size, the
norm, the learning rate. Pure: settings in, other settings and remarks out.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

import backbones
from backbones.create import BUILDERS, find_builder
from backbones.pyramids import as_simple
from backbones.spec import default_options
from tasks.contracts import Batch, Model
from tasks.data.datamodule import DataModule
from tasks.data.loading.settings import num_cores
from tasks.devices import autocast, resolve_device
from tasks.harness.batch_size import largest_batch_size
from tasks.zoo.model_file import read
from tasks.zoo.task_specs import MODEL_SPECS

if TYPE_CHECKING:
    from tasks.data.loading.settings import LoaderSettings
    from tasks.harness.settings import OptimizerSettings, TrainerSettings, TrainSettings

SMALL_BATCH = 16
"""Batch norm with fewer images than this loses accuracy (Group Normalization, figure 1), and more the fewer."""


def with_batch_size(
    settings: "TrainSettings", data: DataModule, model: Model
) -> tuple["TrainSettings", list[str]]:
    """`settings` of a training on `data`, where `loader.batch_size` is auto with as many images a step as fit; `model`
    is one to throw away."""
    devices, device = settings.trainer.devices, resolve_device(settings.trainer.device)
    if devices not in (1, "1", [0]) and (devices != "auto" or torch.cuda.device_count() > 1):
        raise ValueError(
            f"loader.batch_size=auto measures one device, and trainer.devices={devices} asks for more; give a number"
        )

    def largest_of_some(size: int) -> Batch:
        loader = iter(data.with_batch_size(size).train_dataloader())
        found = [batch for _, batch in zip(range(4), loader, strict=False)]
        return max(found, key=lambda batch: batch.images.shape[-2:].numel())

    size = largest_batch_size(
        model,
        largest_of_some,
        num_images=len(data.split("train")),
        device=device,
        autocast=lambda: autocast(settings.precision, device),
    )
    found = replace(settings, loader=replace(settings.loader, batch_size=size))
    return found, [f"loader.batch_size=auto: {size} fit"]


def with_norm(spec: Mapping[str, Any], settings: "TrainSettings") -> tuple[dict[str, Any], list[str]]:
    """The model's `spec` with the norm of its backbone, where that is open.

    By the images of one device, however many there are and whether they share statistics: the same settings build the
    same network on every machine."""
    backbone = spec["backbone"]
    starts_from = "batch" if backbone.get("pretrained") else None
    if settings.init_from is not None and settings.resume is None:
        starts_from = read(settings.init_from)[0].model["backbone"].get("norm")
    size = settings.loader.batch_size
    assert size != "auto"
    norm, sentence = backbone_norm(backbone, settings.norm, batch_size=size, starts_from=starts_from)
    chosen = {} if norm is None else {"norm": norm}
    return {**spec, "backbone": {**backbone, **chosen}}, [sentence] if sentence else []


def with_pyramid(spec: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The model's `spec` with the pyramid that its backbone needs: a plain vision transformer, which has one map, the
    "simple" one."""
    backbone, pyramid = spec["backbone"], spec["pyramid"]
    unused = MODEL_SPECS[spec["name"]].parts.get("pyramid", True) is None
    if pyramid is None or unused or backbone["name"] in BUILDERS.keys() - {"timm", "torchvision"}:
        return dict(spec), []
    with torch.device("meta"):
        options: dict[str, Any] = {**backbone, "pretrained": False}
        network = backbones.create(**options)
    if pyramid.get("name") == "simple" or backbones.usual_pyramid(network.feature_info) != "simple":
        return dict(spec), []
    options = {key: value for key, value in pyramid.items() if key != "name"}
    simple, lost = as_simple(options)
    remark = f"pyramid=simple: {backbones.title(backbone)} has one map, of stride 16"
    if lost:
        remark += f"; {', '.join(f'pyramid.{option}' for option in lost)} mean{'s' * (len(lost) == 1)} nothing to it"
    return {**spec, "pyramid": simple}, [remark]


def with_rate(
    optimizer: "OptimizerSettings", reference: int | None, batch_size: int, num_devices: int, accumulated: int
) -> tuple["OptimizerSettings", list[str]]:
    """`optimizer`, whose rate is for `reference` images a step, with the rate for those that a step has: in proportion
    (Accurate, Large Minibatch SGD, section 2.1). As it is where there is no `reference`."""
    if reference is None:
        return optimizer, []
    rate = optimizer.lr * (batch_size * num_devices * accumulated) / reference
    devices = "device" if num_devices == 1 else "devices"
    remark = (
        f"batch {batch_size} x {num_devices} {devices} x {accumulated} accumulated: {rate:.4g} for the recipe's "
        f"{optimizer.lr:g} at {reference}"
    )
    return replace(optimizer, lr=rate), [remark]


def workers(loader: "LoaderSettings", device: torch.device, num_ranks: int) -> tuple[int, list[str]]:
    """The workers of each of `num_ranks` on this machine, whose networks are on `device` and its like."""
    number = loader.workers_for(device.type, num_ranks)
    if loader.num_workers != "auto" or device.type != "cuda":
        return number, []
    share = f" for each of {num_ranks} GPUs" if num_ranks > 1 else ""
    return number, [f"loader.num_workers=auto: {number}{share} of {num_cores()} cores"]


def with_own_statistics(trainer: "TrainerSettings") -> tuple["TrainerSettings", list[str]]:
    """`trainer` without shared statistics of batch norms on CPUs, where there are none."""
    if not trainer.sync_batchnorm or resolve_device(trainer.device).type != "cpu":
        return trainer, []
    remark = "trainer.sync_batchnorm=true is for GPUs: on CPUs each rank keeps statistics of its own"
    return replace(trainer, sync_batchnorm=False), [remark]


def backbone_norm(
    backbone: Mapping[str, Any], norm: str, *, batch_size: int, starts_from: str | None
) -> tuple[str | None, str]:
    """The norm layers for `backbone` where its settings name none, and why in words; None leaves them alone.

    Args:
        backbone: its settings, `name` and options.
        norm: the setting; `auto` chooses.
        batch_size: images on each device.
        starts_from: the norm of the weights that training starts from; None for random ones.
    """
    options = default_options(find_builder(backbone["name"]))
    if "norm" in backbone or options.get("norm") is None:  # its own, none, or a network that brings its norms
        return None, ""
    if norm != "auto":
        return norm, ""
    if batch_size >= SMALL_BATCH:
        return None, ""
    few = f"norm=auto: {batch_size} image{'s' * (batch_size > 1)} a device, fewer than {SMALL_BATCH}"
    if starts_from is None:
        return "group", f"{few}, are few for batch norm: group norm (norm=batch has it all the same)"
    if starts_from == "group":
        return "group", ""
    return (
        "frozen",
        f"{few}, would spoil the statistics of pretrained weights: frozen batch norm (norm=batch trains it)",
    )
