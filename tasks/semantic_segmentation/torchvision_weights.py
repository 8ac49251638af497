"""torchvision's DeepLabV3 weights, head included, into a `Segmenter` that `deeplabv3` built."""

from collections.abc import Mapping

from torch import Tensor

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
    expected = {key: value.shape for key, value in model.state_dict().items()}
    missing, left_over = sorted(expected.keys() - renamed), sorted(renamed.keys() - expected)
    reshaped = sorted(k for k in expected.keys() & renamed if expected[k] != renamed[k].shape)
    if missing or left_over or reshaped:
        first = (missing + left_over + reshaped)[0]
        raise ValueError(
            f"the weights do not fit this segmenter: {len(missing)} missing, {len(left_over)} left over, "
            f"{len(reshaped)} of another shape (the first: {first}); build it with the backbone and the number "
            "of classes that the weights are for"
        )
    model.load_state_dict(renamed)
