"""Pictures from disk, annotated pictures and one JSON back."""

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.data.loading.images import Reading, read_image
from tasks.files import write_json
from tasks.inference.predictor import Predictor, Result
from tasks.visualization.boxes import write_picture

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}


def predict_pictures(
    predictor: Predictor, pictures: Sequence[Path], output: Path, *, model: str, say: Callable[[str], None]
) -> list[dict[str, str]]:
    """Writes each of `pictures` with what is found in it into the folder `output`, and one JSON of all of it.

    An unreadable picture is named and passed over, so that the others are not lost: file and error of each are given
    back. `model` is what the JSON calls the model; `say` gets a line for each picture.
    """
    output.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    unreadable: list[dict[str, str]] = []
    names = output_names(pictures)
    for group in _readable(pictures, predictor.batch_size, predictor.reading, unreadable):
        for (path, image), found in zip(group, predictor([image for _, image in group]), strict=True):
            write_picture(output / names[path], found.draw(image))
            entries.append(entry(path, image, found, names[path]))
            say(f"{path}: {found.summary()}")
    report = {"model": model, "pictures": entries, "unreadable": unreadable}
    write_json(output / "predictions.json", report)
    say(f"{output}: {len(entries)} pictures and predictions.json")
    return unreadable


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
        what = (
            "holds no pictures" if path.is_dir() else "is not a picture, folder or glob that matches anything"
        )
        raise FileNotFoundError(f"source={source} {what} (known endings: {', '.join(sorted(SUFFIXES))})")
    return sorted(found)


def output_names(sources: Sequence[Path]) -> dict[Path, str]:
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
    sources: Sequence[Path], batch_size: int, reading: Reading, unreadable: list[dict[str, str]]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Batches of decoded pictures; those that cannot be decoded go to `unreadable` with the reason."""
    group: list[tuple[Path, np.ndarray]] = []
    for path in sources:
        try:
            group.append((path, read_image(path, reading=reading)))
        except (ValueError, OSError) as error:
            unreadable.append({"file": str(path), "error": str(error)})
        if len(group) == batch_size:
            yield group
            group = []
    if group:
        yield group
