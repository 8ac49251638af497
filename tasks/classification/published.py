"""A classifier with the published weights of ImageNet, last layer and preprocessing included, ready to be scored."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torchvision.models import get_model_weights, list_models

from backbones import WEIGHTS, Published
from backbones.download import with_digest
from backbones.weights import published_state
from tasks.contracts import Model
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import new_model

from .classifier import Classifier
from .torchvision_weights import load_torchvision_weights

WORDNET_ID = re.compile(r"n\d{8}")
"""How the class folders of ImageNet are called; their sorted order is that of the published weights' classes."""


def published_classifier(
    backbone: Mapping[str, Any], preprocessing: Preprocessing, folder_names: Sequence[str]
) -> Model:
    """The classifier of published weights for a data set with the classes `folder_names`, with its header.

    Args:
        backbone: what `backbones.create` takes; its `pretrained` is True, a tag of `backbones.WEIGHTS`, or a
            file with a state dict of torchvision's network, `fc` included.
        preprocessing: for files that the table of weights does not know; theirs goes before it.
        folder_names: the data's classes in the order of their labels. The class of each is found by name;
            those of WordNet, as in ImageNet's folders, by their place among all 1,000.

    Raises:
        ValueError: weights that are not of this backbone, or not for these classes, or that expect a
            preprocessing which there is not.
    """
    options = dict(backbone)
    name, pretrained = options["name"], options.pop("pretrained", False)
    table = WEIGHTS.get(name, {})
    entry = find_entry(table, pretrained)
    if entry is not None:
        preprocessing = recorded_preprocessing(entry)
    urls = {tag: with_digest(published.url, published.sha256) for tag, published in table.items()}
    weights = published_state(name, urls, pretrained)
    if "fc.weight" not in weights or "fc.bias" not in weights:
        raise ValueError(
            f"the weights pretrained={pretrained} have no last layer 'fc' to classify with; evaluate those of a "
            "ResNet, ResNeXt or Wide ResNet, or train a head on them with vertebra train backbone.pretrained=…"
        )
    categories = category_names(name, len(weights["fc.weight"]))
    rows = find_rows(folder_names, categories, len(weights["fc.weight"]))
    weights |= {key: weights[key][rows] for key in ("fc.weight", "fc.bias")}
    spec = {"name": "classifier", "backbone": options, "pyramid": None}
    model = new_model(
        "classification",
        spec,
        [categories[row] for row in rows] if categories else folder_names,
        range(len(rows)),
        preprocessing,
        provenance={"pretrained": str(pretrained)},
    )
    assert isinstance(model, Classifier)
    load_torchvision_weights(model, weights)
    return model.eval()


def find_entry(table: Mapping[str, Published], pretrained: bool | str) -> Published | None:
    """The line of the table of weights that `pretrained` means by its tag, or as a file by its name."""
    if pretrained is True:
        return list(table.values())[-1] if table else None
    if str(pretrained) in table:
        return table[str(pretrained)]
    file = Path(str(pretrained)).name
    return next((entry for entry in table.values() if entry.file == file), None)


def recorded_preprocessing(entry: Published) -> Preprocessing:
    """How pixels reached the network when its published accuracy was measured."""
    if entry.interpolation != "bilinear":
        raise ValueError(
            f"the weights {entry.file} were scored on images resized {entry.interpolation}, but images are resized "
            "bilinear here, which would give another accuracy; evaluate the network's other weights"
        )
    return Preprocessing(
        short_side=entry.resize,
        max_size=max(entry.resize, Preprocessing.max_size),
        center_crop=entry.crop,
        antialias=True,
        mean=entry.mean,
        std=entry.std,
    )


def category_names(name: str, num_classes: int) -> list[str]:
    """The names of the classes of torchvision's weights of the network `name`; none where it knows none."""
    if name not in list_models():
        return []
    names = next(iter(get_model_weights(name))).meta["categories"]
    return list(names) if len(names) == num_classes else []


def find_rows(folder_names: Sequence[str], categories: Sequence[str], num_rows: int) -> list[int]:
    """For each folder, a class of the data, the row of the last layer that is its class. `categories` are the classes
    of the rows, or nothing where they are not known."""
    by_name = {category: row for row, category in enumerate(categories)}
    if all(folder in by_name for folder in folder_names):
        return [by_name[folder] for folder in folder_names]
    known = [folder for folder in folder_names if folder in by_name]
    if not known and len(folder_names) == num_rows:
        return list(range(num_rows))
    if all(WORDNET_ID.fullmatch(folder) for folder in folder_names):
        reason = "folders called by WordNet's numbers tell their class by their place among all of them"
    elif not categories:
        reason = "what the weights' classes are called is not known"
    else:
        unknown = next(folder for folder in folder_names if folder not in by_name)
        reason = (
            f"{unknown!r} is none of theirs, which are called {categories[0]!r}, {categories[1]!r} and so on"
        )
    raise ValueError(
        f"the data has {len(folder_names)} classes and the weights have {num_rows}, and {reason}; give a folder for "
        "each class of the weights, in their order, or call the folders by their classes"
    )
