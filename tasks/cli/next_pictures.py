"""`vertebra next`: which unlabelled pictures to label next, with what the model finds in them as pre-labels."""

import os
import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from tasks.cli.bar import Bar
from tasks.cli.nodes import whole_number
from tasks.cli.output import Found, say_result
from tasks.cli.predict import build_predictor, check, looked_for, sources
from tasks.cli.settings import settings_of
from tasks.devices import keep_freed_memory
from tasks.folders import check_free, claim_folder, new_folder
from tasks.harness.settings import PredictSettings
from tasks.inference.formats import OBJECT_TASKS, check_format
from tasks.inference.next_pictures import choose_pictures, survey, write_choices
from tasks.inference.run import Job, Outputs, predict_pictures
from tasks.inference.sources import find_pictures, find_video


def next_pictures(config: DictConfig) -> Found:
    """Looks at `config.source`, and labels the `config.number` pictures that are worth most; the exit status is 1 when
    some picture could not be read."""
    number = whole_number(config, "number", least=1)
    settings = settings_of(PredictSettings, config)
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
    labelled = None
    if config.labelled is not None:
        labelled = looked_for(find_pictures(config.labelled, download=settings.download))
    plain = replace(settings, score_threshold=None, tile=None, scales=(1.0,), flip=False)
    predictor = build_predictor(config, plain)
    keep_freed_memory(predictor.device)
    task = predictor.header.task
    form = settings.format or ("coco" if task in OBJECT_TASKS else "json")
    check_format(form, task)
    if config.output is not None:
        check_free(Path(config.output), "output")  # before minutes of looking
    found = survey(predictor, pictures, Bar())
    known = None if labelled is None else survey(predictor, labelled, Bar())
    for error in [*found.errors, *(known.errors if known is not None else [])]:
        print(f"error: {error}", file=sys.stderr)
    if not found.pictures:
        raise ValueError(f"source={config.source}: none of its pictures can be read")
    folder = new_folder("next") if config.output is None else claim_folder(Path(config.output), "output")
    choices = choose_pictures(found, number, known)
    names = write_choices(folder, choices)
    labeller = predictor if plain == settings else build_predictor(config, settings)
    model = str(config.checkpoint or f"{config.model.name} {config.pretrained}")
    bar = Bar()
    job = Job(labeller, model, Outputs(folder, form, settings.draw, settings.masks), bar.say, bar)
    written = predict_pictures(job, [choice.picture for choice in choices], {"next": str(config.source)})
    files = [*names, *written.files]
    say_result(
        f"{folder}: {len(choices)} of {len(found.pictures)} pictures, those most worth labelling first, and "
        f"{', '.join(files)}"
    )
    values = {
        "looked_at": len(found.pictures),
        "pictures": [
            {"file": choice.picture.place, "uncertainty": choice.uncertainty, "distance": choice.distance}
            for choice in choices
        ],
        "errors": [*found.errors, *written.errors],
    }
    return Found({"folder": str(folder), "files": files, **values}, 1 if values["errors"] else 0)
