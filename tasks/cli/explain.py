"""`vertebra explain`: for each object of a picture the stage of the detector that found or lost it."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from tasks.cli.data import data_of
from tasks.cli.output import Found, say_result
from tasks.data.annotations.objects import Annotations
from tasks.data.loading.collate import batch_images
from tasks.detection.explain import STAGES, lost_at, trace, with_names
from tasks.zoo.model_file import load_model


def explain(config: DictConfig) -> Found:
    """Prints a line for each object of `config.image`, the lost ones first, and how many each stage lost."""
    if config.checkpoint is None:
        raise ValueError("checkpoint is not set; give checkpoint=FILE, a model file or checkpoint")
    if config.image is None:
        raise ValueError(
            "image is not set; give image=NAME, a picture of the split, with or without its folder"
        )
    model = load_model(config.checkpoint)
    split = data_of(config).with_boxes().split(config.split)
    annotations = split.annotations
    place = place_of(annotations, str(config.image), config.split)
    image = split.image(place)
    batch = batch_images([image], model.preprocessing)
    followed = trace(model, batch)
    target = annotations.target(place)
    scale = (batch.sizes[0] / batch.original_sizes[0]).flip(0).repeat(2).double().numpy()
    found = [
        (label, box, lost_at(followed, box.astype(np.float64) * scale, label))
        for label, box, is_crowd in zip(target.labels.tolist(), target.boxes, target.is_crowd, strict=True)
        if not is_crowd
    ]
    if not found:
        say_result(f"{config.image} has no objects")
        return Found({"image": config.image, "objects": [], "counts": {}})
    order = list(STAGES)
    found.sort(key=lambda row: -order.index(row[2].stage) if row[2].stage != "found" else 1)
    names = annotations.class_names
    width = max(len(names[label]) for label, *_ in found)
    objects = []
    for label, box, explanation in found:
        at = " ".join(f"{value:.0f}" for value in box)
        words = with_names(explanation.words, names)
        say_result(f"{names[label]:<{width}}  at {at:<20}  {explanation.stage:<11}  {words}")
        objects.append({"class": names[label], "box": box, "stage": explanation.stage, "words": words})
    counts = [(words, sum(row[2].stage == stage for row in found)) for stage, words in STAGES.items()]
    say_result("\n" + "\n".join(f"{count:4d}  {words}" for words, count in counts if count))
    return Found({"image": config.image, "objects": objects, "counts": dict(counts)})


def place_of(annotations: Annotations, name: str, split: str) -> int:
    """The place of the image called `name` in its split."""
    names = [annotations.file_name(i) for i in range(len(annotations))]
    places = [i for i, known in enumerate(names) if known == name or Path(known).name == Path(name).name]
    if not places:
        from backbones.checks import suggest

        raise ValueError(f"image={name} is not in the {split} split; {suggest(name, names)}")
    return places[0]
