"""`vertebra card`: the model card of a trained model, with a picture of what it finds."""

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from backbones.untrusted import find_model
from tasks.cli.output import Found, say_result
from tasks.files import write_text
from tasks.zoo.card import MARK, Beside, write_card
from tasks.zoo.model_file import Header, read

PICTURE = "predictions.jpg"
MAX_PICTURES = 6
"""On the sheet of `source`."""


def card(config: DictConfig) -> Found:
    """Writes README.md, and a picture where there is one, into `config.output`, or beside the model."""
    model = find_model(Path(config.checkpoint))
    header, _ = read(model)
    folder = model.parent if config.output is None else Path(config.output)
    written = make_card(config, model, header, folder)
    say_result(f"{folder}: {', '.join(written)}")
    if config.licence is None:
        print("note: the card states no licence; licence=Apache-2.0, or another of SPDX's identifiers, does")
    return Found({"folder": folder, "files": written, "licence": config.licence})


def make_card(
    config: DictConfig, model: Path, header: Header, folder: Path, *, file: str | None = None
) -> list[str]:
    """Writes the card of `model` into `folder`; the names of its files. `file` is what it calls the model file."""
    path = folder / "README.md"
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        raise FileExistsError(
            f"{path} is there and was not written by vertebra card; give another folder with output=, or move it away"
        )
    folder.mkdir(parents=True, exist_ok=True)
    picture = picture_of(config, model, header, folder)
    beside = Beside(
        name=config.name or f"{header.model['name']} for {header.task.replace('_', ' ')}",
        licence=config.licence,
        data=config.dataset,
        numbers=numbers_of(model, header),
        picture=picture,
        file=file or model.name,
    )
    write_text(path, write_card(header, beside))
    return ["README.md", *([picture] if picture else [])]


def numbers_of(model: Path, header: Header) -> dict[str, Any]:
    """Those in metrics.json beside the model, if they are of these weights."""
    path = model.parent / "metrics.json"
    try:
        numbers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(numbers, dict) or not header.metrics:
        return {}
    numbers = {str(name): value for name, value in numbers.items() if isinstance(value, int | float)}
    is_same = all(numbers.get(name) == value or value != value for name, value in header.metrics.items())
    return numbers if is_same else {}


def picture_of(config: DictConfig, model: Path, header: Header, folder: Path) -> str | None:
    """Writes or copies the picture of the card; its name, None where there is none."""
    if config.source is not None:
        from tasks.data.loading.images import read_image
        from tasks.inference.predictor import Predictor
        from tasks.inference.sources import find_pictures
        from tasks.visualization.boxes import picture_sheet, write_picture
        from tasks.zoo.model_file import load_model

        places = [picture.place for picture in islice(find_pictures(config.source), MAX_PICTURES)]
        predictor = Predictor(load_model(model), score_threshold=config.score_threshold)
        images = [read_image(place) for place in places]
        drawn = [found.draw(image) for found, image in zip(predictor(images), images, strict=True)]
        write_picture(folder / PICTURE, picture_sheet(drawn, max_side=1600))
        return PICTURE
    beside = model.parent / PICTURE
    if not beside.is_file():
        return None
    if beside.parent.resolve() != folder.resolve():
        shutil.copyfile(beside, folder / PICTURE)
    return PICTURE
