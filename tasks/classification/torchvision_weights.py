"""torchvision's classification weights, head included, into a `Classifier`."""

from collections.abc import Mapping

from torch import Tensor

from backbones.loading import load_exactly

from .classifier import Classifier


def load_torchvision_weights(model: Classifier, state_dict: Mapping[str, Tensor]) -> None:
    """Loads the state dict of a torchvision ResNet, ResNeXt or Wide ResNet, `fc` included, in place.

    `model` then gives the logits of torchvision's network; the published numbers also need the
    preprocessing of the same weights, such as `Preprocessing(short_side=232, center_crop=224,
    antialias=True)` for ResNet-50 V2 (`weights.transforms()` says which).

    Raises:
        ValueError: when the weights are not those of this backbone and number of classes.
    """
    renamed = {
        key.replace("fc.", "head.") if key.startswith("fc.") else f"backbone.{key}": value
        for key, value in state_dict.items()
    }
    load_exactly(
        model,
        renamed,
        "the weights do not fit this classifier",
        "build it with the backbone and the number of classes that the weights are for",
    )
