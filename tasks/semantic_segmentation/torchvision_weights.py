"""torchvision's DeepLabV3 weights, head included, into a `Segmenter` that `deeplabv3` built."""

from collections.abc import Mapping

from torch import Tensor

from backbones.loading import load_exactly

from .segmenter import Segmenter


def load_torchvision_weights(model: Segmenter, state_dict: Mapping[str, Tensor]) -> None:
    """Loads the state dict of `torchvision.models.segmentation.deeplabv3_resnet50` (or 101) in place.

    `model` needs a backbone of `output_stride=8`, and for the published weights 21 classes, VOC's with the
    background first. The auxiliary head, which helps in training alone, is left out.

    Raises:
        ValueError: when the weights are not those of this backbone and number of classes.
    """
    renamed = {
        f"head.{key.removeprefix('classifier.')}" if key.startswith("classifier.") else key: value
        for key, value in state_dict.items()
        if not key.startswith("aux_classifier.")
    }
    load_exactly(
        model,
        renamed,
        "the weights do not fit this segmenter",
        "build it with the backbone and the number of classes that the weights are for",
    )
