"""Which pictures of a source to label next, and what is written of them."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tasks.files import write_csv, write_text
from tasks.inference.predictor import Predictor
from tasks.inference.run import READERS, Progress, groups, read_ahead
from tasks.inference.selection import choose, nearest
from tasks.inference.sources import Picture
from tasks.inference.survey import Surveyor

HEADER = ("rank", "file", "uncertainty", "distance")


@dataclass(frozen=True)
class Survey:
    """The N pictures of a source that could be read, as a model sees them."""

    pictures: list[Picture]
    uncertainties: np.ndarray
    """(N,) float64."""
    features: np.ndarray
    """(N, C) float16, as a million pictures are to fit into memory."""
    errors: list[str]
    """Of those that could not be read."""


def survey(predictor: Predictor, pictures: Iterable[Picture], progress: Progress) -> Survey:
    """Looks at each of `pictures` once."""
    known, values, features, errors = [], [], [], []
    progress.start(None)
    with Surveyor.open(predictor) as look, ThreadPoolExecutor(min(READERS, os.cpu_count() or 1)) as pool:
        read = read_ahead(pictures, predictor.reading, pool, predictor.batch_size)
        for group in groups(read, predictor.window):
            errors += [str(image) for _, image in group if isinstance(image, Exception)]
            readable = [(p, image) for p, image in group if not isinstance(image, Exception)]
            for (picture, _), seen in zip(readable, look([image for _, image in readable]), strict=True):
                known.append(picture)
                values.append(seen.uncertainty)
                features.append(seen.feature.astype(np.float16))
            progress.add(len(group))
    progress.stop()
    return Survey(known, np.array(values), np.stack(features) if features else np.zeros((0, 0)), errors)


@dataclass(frozen=True)
class Choice:
    """A picture that is to be labelled, the first one first."""

    picture: Picture
    uncertainty: float
    distance: float
    """From the nearest picture chosen before it, or labelled; 0 … 2."""


def choose_pictures(found: Survey, number: int, labelled: Survey | None = None) -> list[Choice]:
    """`number` of the pictures of `found`, or all of fewer, other than those of `labelled`."""
    of_labelled = None if labelled is None else labelled.features.astype(np.float32)
    features = found.features.astype(np.float32)
    rows = choose(found.uncertainties, features, number, of_labelled)
    choices = []
    for place, row in enumerate(rows.tolist()):
        others = features[rows[:place]]
        if of_labelled is not None:
            others = np.concatenate([of_labelled, others])
        distance = float(nearest(features[row : row + 1], others)[0]) if len(others) else float("nan")
        choices.append(Choice(found.pictures[row], float(found.uncertainties[row]), distance))
    return choices


def write_choices(folder: Path, choices: list[Choice]) -> list[str]:
    """next.csv, and next.txt, a list that `source=` takes; their names."""
    rows = [
        (
            rank,
            choice.picture.place,
            f"{choice.uncertainty:.4f}",
            "" if np.isnan(choice.distance) else f"{choice.distance:.4f}",
        )
        for rank, choice in enumerate(choices, start=1)
    ]
    write_csv(folder / "next.csv", HEADER, rows)
    places = [choice.picture.place for choice in choices]
    write_text(folder / "next.txt", "".join(f"{os.path.abspath(place)}\n" for place in places))
    return ["next.csv", "next.txt"]
