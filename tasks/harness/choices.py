"""What training chooses for data of one's own, each setting with its reason: the network, its weights, how long it
learns and how. Pure: what is known goes in, choices come out. What somebody has said is never chosen.

The figures behind the numbers stand in docs/results.md.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from tasks.harness.known import Known
from tasks.zoo.pretrained import PUBLISHED

FEW_IMAGES = 150
"""Training sets smaller than this see each image so often that they need more augmentation."""
ENOUGH_TO_VALIDATE = 50
"""With fewer images the numbers of two validations differ by chance."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """A network and images that go together."""

    backbone: str
    short_side: int
    max_size: int
    channels: int
    """Of the pyramid, and so of the heads on it."""


SIZES = {
    "small": Size(backbone="resnet18", short_side=384, max_size=640, channels=128),
    "medium": Size(backbone="resnet34", short_side=512, max_size=854, channels=192),
    "large": Size(backbone="resnet50", short_side=800, max_size=1333, channels=256),
}
"""What `size` can be."""


def network(known: Known) -> Known:
    """The backbone, the width of what stands on it."""
    asked = known.get("size") or "auto"
    name = ("large" if known.on_gpu else "small") if asked == "auto" else asked
    size = SIZES[name]
    why = f"size={name}" + (f", as there is {'a' if known.on_gpu else 'no'} GPU" if asked == "auto" else "")
    start = _network_of_weights(known)
    if start:
        known = known.choose(
            "the network of the weights", **{k.replace(".", "__"): v for k, v in start.items()}
        )
    else:
        known = known.choose(why, backbone__name=size.backbone)
    uses_pyramid = known.get("pyramid.name") is not None
    if uses_pyramid and not start and not _published_fits(known):
        known = known.choose(why, pyramid__channels=size.channels)
    return replace(known, values={**known.values, "size": name})


def origin(known: Known) -> Known:
    """Where the weights come from."""
    asks = known.get("pretrained") == "auto" or known.is_open("pretrained")
    said_otherwise = known.get("init_from") or not known.is_open("backbone.pretrained")
    if not asks or said_otherwise or known.get("resume"):
        return known
    if _published_fits(known):
        tag = list(PUBLISHED[known.model])[-1]
        return _always(known, f"weights of COCO for the whole {known.model}", pretrained=tag)
    name = str(known.get("backbone.name"))
    if known.has_weights(name):
        of_model = f"; none are published of {known.model} on it" if known.has_boxes else ""
        return _always(
            known, f"weights of ImageNet for {name}{of_model}", pretrained=False, backbone__pretrained=True
        )
    return _always(known, f"random weights, as none are published for {name}", pretrained=False)


def images(known: Known) -> Known:
    """The side of images, and boxes to begin with that are as large as the objects."""
    size, facts = SIZES[str(known.get("size"))], known.facts
    if known.task == "classification":
        return known
    side, why = size.short_side, f"size={known.get('size')}"
    if known.origin != "model" and facts.short_side is not None:
        wanted = facts.short_side
        if facts.object_sides is not None:
            wanted = max(wanted, WANTED_OBJECT / facts.object_sides[1])
        if wanted < side:
            side = max(64, 32 * math.ceil(wanted / 32))
            why = f"images of {facts.short_side:.0f} pixels have no more detail"
    most = round(side * size.max_size / size.short_side)
    return known.choose(why, preprocessing__short_side=side, preprocessing__max_size=most)


WANTED_OBJECT = 24
"""Pixels of the median object's side below which images are enlarged: six cells of the finest map."""


def pixels(known: Known) -> Known:
    """Mean and spread of pixels as the weights of the backbone know them."""
    found = known.pixels(str(known.get("backbone.name"))) if known.origin == "backbone" else None
    if found is None:
        return known
    mean, std = map(list, found)
    return known.choose("as the weights were trained", preprocessing__mean=mean, preprocessing__std=std)


def first_stages(known: Known) -> Known:
    """Whether the first stages of a trained backbone learn on."""
    if (
        known.origin != "backbone"
        or not known.has_boxes
        or not known.has_stages(str(known.get("backbone.name")))
    ):
        return known
    why = "the first layers of a trained backbone serve as they are, and steps are faster"
    return known.choose(why, backbone__frozen_stages=1)


def anchors(known: Known) -> Known:
    """Those of a network that has not learned with others."""
    sides, short = known.facts.object_sides, known.get("preprocessing.short_side")
    if known.model not in ("faster_rcnn", "mask_rcnn", "retinanet") or known.origin == "model":
        return known
    if sides is None or short is None:
        return known
    if not known.is_open("pyramid.levels") or not known.is_open("pyramid.extra"):
        return known
    if known.model == "retinanet":
        # A level's anchors are as many of its strides wide as on the next, so that every object meets enough of them.
        first = round(min(32.0, max(16.0, sides[0] * short)))
        sizes = [first * 2**level for level in range(5)]
    else:
        sizes = geometric(max(8.0, sides[0] * short), sides[2] * short, 5)
    why = f"objects are {sides[0] * short:.0f} to {sides[2] * short:.0f} pixels at this size"
    return known.choose(why, model__anchor_sizes=sizes)


def geometric(low: float, high: float, count: int) -> list[int]:
    """`count` whole numbers from `low` to at least twice that, each about as many times the one before."""
    ratio = (max(high, 2 * low) / low) ** (1 / (count - 1))
    return [round(low * ratio**n) for n in range(count)]


def proposals(known: Known) -> Known:
    """As many proposals and detections as images hold objects, and how weak they may be."""
    if not known.has_boxes:
        return known
    most = known.facts.most_objects
    if most > 100:
        known = known.choose(
            f"an image has up to {most} objects", model__max_detections=100 * math.ceil(most / 100)
        )
    if known.model in ("faster_rcnn", "mask_rcnn"):
        enough = min(1000, max(200, 100 * math.ceil(4 * most / 100)))
        known = known.choose(f"at least four for each of {most} objects", model__rpn_post_nms_test=enough)
        if not known.on_gpu:
            known = known.choose(
                "enough for these images, and faster without a GPU",
                model__rpn_pre_nms_train=500,
                model__rpn_post_nms_train=500,
                model__rpn_pre_nms_test=500,
                model__box_samples=128,
                **({} if known.origin == "model" else NARROW[known.model]),
            )
    return known.choose(
        "weak detections count for AP",
        model__score_threshold=LEAST_SCORE[known.task == "instance_segmentation"],
    )


NARROW = {
    "faster_rcnn": {"model__box_representation_size": 512},
    "mask_rcnn": {"model__box_representation_size": 512, "model__mask_width": 128},
}
"""Heads half as wide as usual, where none have learned yet and there is no GPU."""
LEAST_SCORE = {False: 0.001, True: 0.01}
"""Of a detection, without and with a mask to be made of it. `predict` has a threshold of its own."""


def heads(known: Known) -> Known:
    """Heads that learn sooner, where none has learned yet."""
    if known.origin == "model":
        return known
    if known.model == "retinanet":
        return known.choose("a new head learns sooner with norms", model__head_norm="group")
    if known.model != "faster_rcnn":
        return known
    why = "a Cascade R-CNN: truer boxes than one head finds with half as many steps again"
    return known.choose(why, model__cascade=[0.5, 0.6, 0.7])


def batch(known: Known) -> Known:
    """Images of a step, and the norm layers that suit so few."""
    size = 8 if known.on_gpu else 4
    if known.task != "classification":
        known = known.choose(
            "images of a step" + ("" if known.on_gpu else ", many small steps"), loader__batch_size=size
        )
    if known.origin == "nothing" and known.is_open("backbone.norm") and known.get("norm") == "auto":
        images = known.get("loader.batch_size")
        if isinstance(images, int) and images >= 4:
            known = known.choose("learned better than group norm on small sets", norm="batch")
    return known


def length(known: Known) -> Known:
    """How long training goes on, and how often it looks at the validation split."""
    facts, size = known.facts, known.get("loader.batch_size")
    if not isinstance(size, int) or not facts.num_train:
        return known
    accumulated = known.get("trainer.accumulate_grad_batches") or 1
    in_a_step = size * accumulated
    if known.is_open("trainer.max_steps") and known.is_open("trainer.max_epochs"):
        has_slow_heads = known.get("model.cascade") or known.model == "mask_rcnn"
        least = LEAST_OF_SLOW_HEADS if has_slow_heads else LEAST_SAMPLES
        samples = max(least[known.on_gpu], EPOCHS * facts.num_train)
        steps = max(50, 50 * round(samples / in_a_step / 50))
        times = steps * in_a_step / facts.num_train
        known = known.choose(
            f"each of {facts.num_train} images {times:.3g} times",
            trainer__max_steps=steps,
            trainer__max_epochs=-1,
        )
    elif known.is_open("trainer.max_epochs"):
        known = known.choose("trainer.max_steps says how long", trainer__max_epochs=-1)
    steps = known.get("trainer.max_steps")
    if not steps or steps < 0 or not known.is_open("trainer.check_val_every_n_epoch"):
        return known
    if not known.is_open("trainer.val_check_interval"):
        return known
    times = min(20, max(2, round(steps / 500)))
    known = known.choose(
        f"{times} validations, the last at the end",
        trainer__val_check_interval=math.ceil(steps / times) * accumulated,
        trainer__check_val_every_n_epoch=None,
    )
    patience = max(3, times // 3)
    if facts.num_val >= ENOUGH_TO_VALIDATE and times > patience:
        known = known.choose(
            f"ends after so many validations without a better one; {facts.num_val} images tell",
            early_stopping=patience,
        )
    return known


LEAST_SAMPLES = {False: 4000, True: 16000}
"""Images that training sees at least, without and with a GPU."""
LEAST_OF_SLOW_HEADS = {**LEAST_SAMPLES, False: 2600}
"""The same where a step takes a CPU half as long again, as those of a Cascade and of a Mask R-CNN."""
EPOCHS = 8
"""Of larger sets."""


def rate(known: Known) -> Known:
    """The optimiser's rate and decay, and the warm-up."""
    if known.origin == "model":
        why = "fine-tuning: AdamW's rate for 16 images a step"
        known = known.choose(why, optimizer__lr=2e-4, reference_batch_size=16)
    elif known.origin == "backbone":
        known = known.choose("heads are new, the backbone is not", optimizer__lr=0.001)
    else:
        known = known.choose("from random weights", optimizer__lr=0.002 if known.has_boxes else 0.001)
    return known


def average(known: Known) -> Known:
    """The moving average of the weights."""
    steps = known.get("trainer.max_steps")
    if not isinstance(steps, int) or steps < 0:
        return known
    decay = round(min(0.9998, max(0.99, 1 - 10 / steps)), 4)
    return known.choose("scores weights averaged over the last steps", ema=decay)


def augmentation(known: Known) -> Known:
    """What training images are put through."""
    if known.task == "classification":
        return known
    name = "strong" if known.facts.num_train < FEW_IMAGES and known.has_boxes else "standard"
    why = f"{known.facts.num_train} images to train"
    return known.choose(why, augmentation=name)


NETWORK: tuple[Callable[[Known], Known], ...] = (network, origin)
"""Need no data."""
TRAINING: tuple[Callable[[Known], Known], ...] = (
    images,
    pixels,
    first_stages,
    anchors,
    proposals,
    heads,
    batch,
    length,
    rate,
    average,
    augmentation,
)


def run(phases: Iterable[Callable[[Known], Known]], known: Known) -> Known:
    """`known` after all `phases`."""
    for phase in phases:
        known = phase(known)
    return known


def _network_of_weights(known: Known) -> dict[str, Any]:
    """What training needs of the network in the file, or of the published model, that somebody has said to start
    from."""
    if known.file:
        names = ("backbone.name", "backbone.model", "pyramid.name", "pyramid.channels")
        if known.get("pyramid.name") is None:
            names = names[:2]
        return {name: known.file[name] for name in names if known.file.get(name) is not None}
    asked = known.get("pretrained")
    if asked in (None, False, "auto") or known.model not in PUBLISHED:
        return {}
    return {"backbone.name": next(iter(PUBLISHED[known.model].values())).backbone["name"]}


def _published_fits(known: Known) -> bool:
    """Whether weights of the whole model are published on the backbone and pyramid that it has."""
    entries = PUBLISHED.get(known.model, {})
    if not entries:
        return False
    entry = list(entries.values())[-1]
    asked_pyramid = known.get("pyramid.name") or "fpn"
    return known.get("backbone.name") == entry.backbone["name"] and asked_pyramid == entry.pyramid["name"]


def _always(known: Known, why: str, **values: Any) -> Known:
    """A choice of what "auto" was said of."""
    return replace(known, given=set(known.given) - {"pretrained"}).choose(why, **values)
