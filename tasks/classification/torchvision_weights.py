"""torchvision's classification weights, head included, into a `Classifier`."""

from collections.abc import Mapping

from torch import Tensor

from .classifier import Classifier

COUNTER = "num_batches_tracked"  # old files lack it, and nothing is computed from it


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
        if not key.endswith(COUNTER)
    }
    expected = {key: value.shape for key, value in model.state_dict().items() if not key.endswith(COUNTER)}
    missing, left_over = sorted(expected.keys() - renamed), sorted(renamed.keys() - expected)
    reshaped = sorted(k for k in expected.keys() & renamed if expected[k] != renamed[k].shape)
    if missing or left_over or reshaped:
        first = (missing + left_over + reshaped)[0]
        raise ValueError(
            f"the weights do not fit this classifier: {len(missing)} missing, {len(left_over)} left over, "
            f"{len(reshaped)} of another shape (the first: {first}); build it with the backbone and the "
            "number of classes that the weights are for"
        )
    model.load_state_dict(renamed, strict=False)
