"""`vertebra next`: which unlabelled pictures to label next, with what the model finds in them as pre-labels."""

import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from omegaconf import DictConfig

from tasks.cli.bar import Bar
from tasks.cli.predict import build_predictor, check, sources
from tasks.cli.settings import settings_of
from tasks.devices import keep_freed_memory
from tasks.folders import claim_folder, new_folder
from tasks.harness.settings import PredictSettings
from tasks.inference.formats import OBJECT_TASKS, check_format
from tasks.inference.next_pictures import choose_pictures, survey, write_choices
from tasks.inference.run import Job, Outputs, predict_pictures
from tasks.inference.sources import Picture, find_pictures, find_video


def next_pictures(config: DictConfig) -> int:
    """Looks at `config.source`, and labels the `config.number` pictures that are worth most; the exit status, 1 when
    some picture could not be read."""
    settings = settings_of(PredictSettings, config)
    number = config.number
    if type(number) is not int or number < 1:
        raise ValueError(f"number={number} must be a whole number of pictures, at least 1")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "next compares all pictures with one another, in one process; start it without torchrun"
        )
    if find_video(config.source) is not None:
        raise ValueError(
            f"source={config.source} is a video, and pictures are wanted; `vertebra predict` with format=coco every=25 "
            "saves frames of one"
        )
    check(config, settings, None)
    pictures = sources(config, settings)
    labelled = None if config.labelled is None else _first(config.labelled, settings.download)
    plain = replace(settings, score_threshold=None, tile=None, scales=(1.0,), flip=False)
    predictor = build_predictor(config, plain)
    keep_freed_memory(predictor.device)
    task = predictor.header.task
    form = settings.format or ("coco" if task in OBJECT_TASKS else "json")
    check_format(form, task)
    if config.output is not None and Path(config.output).exists():
        claim_folder(Path(config.output), "output")  # says now that it holds something
    found = survey(predictor, pictures, Bar())
    known = None if labelled is None else survey(predictor, labelled, Bar())
    for error in [*found.errors, *(known.errors if known is not None else [])]:
        print(f"error: {error}", file=sys.stderr)
    if not found.pictures:
        raise ValueError(f"source={config.source}: none of its pictures can be read")
    folder = new_folder("next") if config.output is None else claim_folder(Path(config.output), "output")
    choices = choose_pictures(found, number, known)
    names = ", ".join(write_choices(folder, choices))
    print(
        f"{len(choices)} of {len(found.pictures)} pictures, those most worth labelling first; {folder}: {names}"
    )
    labeller = predictor if plain == settings else build_predictor(config, settings)
    model = str(config.checkpoint or f"{config.model.name} {config.pretrained}")
    job = Job(labeller, model, Outputs(folder, form, settings.draw, settings.masks), print, Bar())
    errors = predict_pictures(job, [choice.picture for choice in choices], {"next": str(config.source)})
    return 1 if errors or found.errors else 0


def _first(source: str, download: bool) -> Iterator[Picture]:
    """The pictures of a source, of which the first is looked for at once, so that a wrong one is told of before."""
    found = find_pictures(source, download=download)
    return chain([next(found)], found)
