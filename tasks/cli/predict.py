"""`vertebra predict`: pictures, videos and cameras with what a model finds in them."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from inspect import signature
from itertools import chain, islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from tasks.cli.bar import Bar
from tasks.cli.nodes import plain
from tasks.cli.output import Found, say_result
from tasks.cli.published import published_model_of
from tasks.cli.settings import settings_of
from tasks.devices import keep_freed_memory
from tasks.folders import new_folder
from tasks.harness.settings import PredictSettings
from tasks.inference.predictor import Predictor
from tasks.inference.run import Job, Outputs, digest_of, predict_pictures, predict_video
from tasks.inference.sources import Picture, Video, find_pictures, find_video
from tasks.metrics.operating_point import KEY
from tasks.zoo.model_file import load_model

INTERRUPTED = 130
"""Exit status of a program that Ctrl-C has ended."""
PATIENCE = timedelta(days=30)
"""How long ranks wait for the slowest one."""
MAY_DIFFER = frozenset({"batch_size", "device", "download"})
"""Settings that may change in a run that goes on."""
USUAL_THRESHOLD = 0.5
"""Of a model file that knows no better."""


def predict(config: DictConfig) -> Found:
    """Applies a model to `config.source`; the exit status is 1 when some picture could not be read.

    Under torchrun the processes share the pictures.
    """
    settings = settings_of(PredictSettings, config)
    video = find_video(config.source)
    check(config, settings, video)
    with ranks() as (rank, num_ranks):
        pictures = iter(()) if video else sources(config, settings)
        predictor = build_predictor(config, settings)
        keep_freed_memory(predictor.device)
        folder = new_folder("predict") if config.output is None else Path(config.output)
        name = str(config.checkpoint or f"{config.model.name} {config.pretrained}")
        outputs = Outputs(
            folder, settings.format or ("jsonl" if video else "json"), settings.draw, settings.masks
        )
        bar = Bar(silent=rank != 0)
        job = Job(predictor, name, outputs, bar.say, bar)
        if video is not None:
            written = predict_video(job, video, every=settings.every)
        else:
            try:
                run = identity(config, settings)
                written = predict_pictures(job, pictures, run, rank=rank, num_ranks=num_ranks)
            except KeyboardInterrupt:
                bar.say(f"stopped; the same command with output={folder} goes on")
                return Found({"folder": str(folder), "stopped": True}, INTERRUPTED)
    if rank == 0:
        what = f"{'frame' if video else 'picture'}{'s' * (written.num_pictures != 1)}"
        say_result(f"{folder}: {written.num_pictures} {what} and {', '.join(written.files)}")
    for error in written.errors:
        print(f"error: {error}", file=sys.stderr)
    kind = "frames" if video else "pictures"
    values = {kind: written.num_pictures, "files": written.files, "errors": written.errors, "stopped": False}
    return Found({"folder": str(folder), **values}, 1 if written.errors else 0)


def check(config: DictConfig, settings: PredictSettings, video: Video | None) -> None:
    """Raises ValueError for settings that do not go together."""
    if (config.checkpoint is None) == (not config.pretrained):
        raise ValueError(
            "checkpoint is not set; give checkpoint=FILE, a model file or checkpoint, or published weights: "
            "task=detection model=faster_rcnn pretrained=COCO_V2"
            if config.checkpoint is None
            else f"give checkpoint=FILE or pretrained={config.pretrained}, not both"
        )
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if video is not None:
            raise ValueError(
                f"source={config.source} is a video, whose frames come one after another and are not shared by several "
                "processes; run one process for each video"
            )
        if config.output is None:
            raise ValueError(
                "several processes were started for this run (torchrun), which need one folder: give output=DIR"
            )
    output = Path(str(config.output))
    has_both = config.output is not None and output.is_dir() and Path(config.source).is_dir()
    if settings.draw and has_both and output.samefile(config.source):
        raise ValueError(
            f"output={config.output} is the folder of the source, among whose pictures the drawn ones would be; give "
            "another folder, or draw=false"
        )


def sources(config: DictConfig, settings: PredictSettings) -> Iterator[Picture]:
    """Every `every`th picture. Raises at once where there is none."""
    output = None if config.output is None else Path(config.output)
    found = find_pictures(config.source, download=settings.download, leave_out=output)
    return islice(looked_for(found), 0, None, settings.every)


def looked_for(pictures: Iterator[Picture]) -> Iterator[Picture]:
    """The same, the first of which is looked for at once, so that a wrong source is told of before anything is done."""
    return chain([next(pictures)], pictures)


def build_predictor(config: DictConfig, settings: PredictSettings) -> Predictor:
    """The predictor of the model that is named."""
    options = {
        name: getattr(settings, name) for name in vars(settings) if name in signature(Predictor).parameters
    }
    del options["model"]
    if settings.device == "auto" and "LOCAL_RANK" in os.environ:
        import torch

        if count := torch.cuda.device_count():
            options["device"] = f"cuda:{int(os.environ['LOCAL_RANK']) % count}"
    model = (
        published_model_of(config)
        if config.checkpoint is None
        else load_model(config.checkpoint, settings.model)
    )
    if settings.score_threshold is None and KEY not in model.header.provenance:
        options["score_threshold"] = USUAL_THRESHOLD
    return Predictor(model, **options)


def identity(config: DictConfig, settings: PredictSettings) -> dict[str, Any]:
    """What must be the same in a run that goes on."""
    from backbones.untrusted import find_model

    same = {name: value for name, value in vars(settings).items() if name not in MAY_DIFFER}
    model = (
        {"checkpoint": config.checkpoint, "contents": digest_of(find_model(Path(config.checkpoint)))}
        if config.checkpoint is not None
        else {"pretrained": config.pretrained}
    )
    return {**model, "source": config.source, **same, "model": plain(config.model)}


@contextmanager
def ranks() -> Iterator[tuple[int, int]]:
    """The number of this process and how many there are, connected where torchrun has started several.

    What they tell each other is that a list is written or a share is done, for which gloo serves on GPUs, too.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) < 2:
        yield 0, 1
        return
    import torch.distributed

    torch.distributed.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield torch.distributed.get_rank(), torch.distributed.get_world_size()
    finally:
        torch.distributed.destroy_process_group()
