"""The work of `tools/predict.py`: pictures from disk, annotated pictures and one JSON back."""

import glob
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from backbones.checks import check_positive
from tasks.data.loading.images import read_image
from tasks.devices import keep_freed_memory
from tasks.folders import new_folder
from tasks.inference.predictor import Predictor, Result
from tasks.visualization.boxes import write_picture
from tasks.zoo.model_file import load_model
from tasks.zoo.pretrained import published_from

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def predict(config: DictConfig) -> int:
    """Applies a model to `config.source`. Returns the exit status: 1 when some picture could not be read.

    An unreadable picture is named and passed over, so that the others are not lost.
    """
    check_positive("batch_size", config.batch_size)
    sources = find_pictures(config.source)
    if (config.checkpoint is None) == (not config.pretrained):
        raise ValueError(
            "checkpoint is not set; give checkpoint=FILE, a model file or checkpoint, or published weights: "
            "task=detection model=faster_rcnn pretrained=COCO_V2"
            if config.checkpoint is None
            else f"give checkpoint=FILE or pretrained={config.pretrained}, not both"
        )
    predictor = Predictor(
        published_from(config)
        if config.checkpoint is None
        else load_model(config.checkpoint, dict(config.model)),
        device=config.device,
        precision=config.precision,
        score_threshold=config.score_threshold,
        batch_size=config.batch_size,
        tile=config.tile,
        overlap=config.overlap,
        scales=config.scales,
        flip=config.flip,
    )
    keep_freed_memory(predictor.device)
    if config.output is None:
        output = new_folder("predict")
    else:
        output = Path(config.output)
        output.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    names = output_names(sources)
    for group in _readable(sources, config.batch_size, unreadable):
        for (path, image), found in zip(group, predictor([image for _, image in group]), strict=True):
            write_picture(output / names[path], found.draw(image))
            entries.append(entry(path, image, found, names[path]))
            print(f"{path}: {found.summary()}")
    model = config.checkpoint or f"{config.model.name} {config.pretrained}"
    report = {"model": str(model), "pictures": entries, "unreadable": unreadable}
    partial = output / ".predictions.json.partial"
    partial.write_text(json.dumps(report, indent=1))
    os.replace(partial, output / "predictions.json")
    print(f"{output}: {len(entries)} pictures and predictions.json")
    for failure in unreadable:
        print(f"error: {failure['error']}", file=sys.stderr)
    return 1 if unreadable else 0


def find_pictures(source: str) -> list[Path]:
    """The pictures that `source` means: itself, those in a folder, or what a glob matches; sorted."""
    path = Path(source)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [p for p in path.iterdir() if p.suffix.lower() in SUFFIXES]
    else:
        found = [Path(p) for p in glob.glob(str(source), recursive=True) if Path(p).is_file()]
    if not found:
        what = "holds no pictures" if path.is_dir() else "is no picture, folder or glob that matches anything"
        raise FileNotFoundError(f"source={source} {what} (known endings: {', '.join(sorted(SUFFIXES))})")
    return sorted(found)


def output_names(sources: list[Path]) -> dict[Path, str]:
    """A file name for each picture's annotated copy, no two the same."""
    names: dict[Path, str] = {}
    for path in sources:
        name, count = f"{path.stem}.jpg", 1
        while name in names.values():
            count += 1
            name = f"{path.stem}-{count}.jpg"
        names[path] = name
    return names


def entry(path: Path, image: np.ndarray, found: Result, drawn: str) -> dict[str, Any]:
    """What the JSON says of one picture."""
    height, width = image.shape[:2]
    return {"file": str(path), "annotated": drawn, "height": height, "width": width, **found.to_dict()}


def _readable(
    sources: list[Path], batch_size: int, unreadable: list[dict[str, str]]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Batches of decoded pictures; those that cannot be decoded go to `unreadable` with the reason."""
    group: list[tuple[Path, np.ndarray]] = []
    for path in sources:
        try:
            group.append((path, read_image(path)))
        except (ValueError, OSError) as error:
            unreadable.append({"file": str(path), "error": str(error)})
        if len(group) == batch_size:
            yield group
            group = []
    if group:
        yield group
