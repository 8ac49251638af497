"""The classifier and its loss by hand, by torchvision's networks, and at the edges."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from sklearn.datasets import load_sample_images

from tasks.classification.classifier import Classifier, class_loss, classifier, masked_mean
from tasks.classification.torchvision_weights import load_torchvision_weights
from tasks.data.loading.collate import batch_images
from tasks.preprocessing import Preprocessing
from tasks.zoo.model_file import Header
from tasks.zoo.registry import build_model, resolved_spec
from tasks.zoo.transfer import transfer

# Two images of three classes whose probabilities are these.
PROBABILITIES = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])
LOGITS = PROBABILITIES.log() + torch.tensor([[3.0], [-1.0]])
LABELS = torch.tensor([0, 1])
PHOTOGRAPHS = [np.ascontiguousarray(image) for image in load_sample_images().images]


def small(**options) -> Classifier:
    settings = {"num_classes": 3, "backbone": {"name": "resnet18"}, **options}
    return classifier(**settings).eval()


def test_loss_by_hand() -> None:
    assert class_loss(LOGITS, LABELS).item() == pytest.approx((math.log(2) + math.log(8)) / 2)


def test_label_smoothing_by_hand() -> None:
    # A share of 0.3 spread over three classes: 0.8 on the true one, 0.1 on each other.
    first = 0.8 * math.log(2) + 0.2 * math.log(4)
    second = 0.8 * math.log(8) + 0.1 * math.log(8) + 0.1 * math.log(4 / 3)
    loss = class_loss(LOGITS, LABELS, label_smoothing=0.3)
    assert loss.item() == pytest.approx((first + second) / 2)


def test_class_weights_by_hand() -> None:
    weights = torch.tensor([1.0, 3.0, 5.0])
    expected = (1 * math.log(2) + 3 * math.log(8)) / 4
    assert class_loss(LOGITS, LABELS, weights).item() == pytest.approx(expected)


def test_shares_of_classes_by_hand() -> None:
    shares = torch.tensor([[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]])
    first, second = 0.75 * math.log(2) + 0.25 * math.log(4), 0.5 * math.log(8) + 0.5 * math.log(4 / 3)
    assert class_loss(LOGITS, shares).item() == pytest.approx((first + second) / 2)
    weights = torch.tensor([1.0, 3.0, 5.0])
    first, second = 0.75 * math.log(2) + 3 * 0.25 * math.log(4), 1.5 * math.log(8) + 2.5 * math.log(4 / 3)
    weight = 0.75 + 3 * 0.25 + 1.5 + 2.5
    assert class_loss(LOGITS, shares, weights).item() == pytest.approx((first + second) / weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_whole_shares_weigh_as_classes_do(smoothing: float) -> None:
    weights = torch.tensor([0.5, 2.0, 0.0])
    shares = F.one_hot(LABELS, 3).float()
    assert class_loss(LOGITS, shares, weights, smoothing).item() == pytest.approx(
        class_loss(LOGITS, LABELS, weights, smoothing).item()
    )
    assert class_loss(LOGITS, LABELS, weights, smoothing).item() == pytest.approx(
        F.cross_entropy(LOGITS, LABELS, weights, label_smoothing=smoothing).item()
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_batch_without_weight_has_no_loss_and_no_gradient(smoothing: float) -> None:
    logits = LOGITS.clone().requires_grad_()
    loss = class_loss(logits, LABELS, torch.tensor([0.0, 0.0, 1.0]), smoothing)
    loss.backward()
    assert loss.item() == 0
    assert torch.equal(logits.grad, torch.zeros(2, 3))


def test_model_hands_its_options_to_the_loss() -> None:
    model = small(label_smoothing=0.3, class_weights=[1, 3, 5])
    batch = batch_images([np.zeros((32, 32, 3), np.uint8)] * 2, Preprocessing(short_side=None))
    batch.class_ids = LABELS
    features = model.features(batch)
    expected = class_loss(model.logits(features, batch.sizes), LABELS, torch.tensor([1.0, 3.0, 5.0]), 0.3)
    assert model.losses(features, batch)["loss_class"] == expected
    batch.class_weights = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert model.losses(features, batch)["loss_class"] != expected


def test_masked_mean_by_hand() -> None:
    maps = torch.arange(12.0).reshape(1, 1, 3, 4).repeat(3, 2, 1, 1)
    maps[:, 1] *= 10
    # Of 4-pixel cells: all; two rows of one column; 5 pixels, so two rows and two columns.
    pooled = masked_mean(maps, torch.tensor([[12, 16], [8, 4], [5, 5]]), 4)
    assert pooled[:, 0].tolist() == [5.5, 2.0, 2.5]
    assert pooled[:, 1].tolist() == [55.0, 20.0, 25.0]


def test_masked_mean_ignores_what_stands_in_the_padding() -> None:
    maps = torch.randn(1, 3, 4, 4)
    changed = maps.clone()
    changed[:, :, 2:] = 1e9
    sizes = torch.tensor([[16, 32]])
    assert torch.equal(masked_mean(maps, sizes, 8), masked_mean(changed, sizes, 8))


def oracle(name: str, tag: str) -> tuple[torch.nn.Module, torch.nn.Module, Classifier]:
    """The network of torchvision with random weights and the transform of its published ones, and ours from both."""
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None, num_classes=7).eval()
    for module in theirs.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: no statistic is 0 or 1
            torch.nn.init.uniform_(module.running_mean, -0.2, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    transform = torchvision.models.get_model_weights(name)[tag].transforms()
    preprocessing = Preprocessing(
        short_side=transform.resize_size[0], center_crop=transform.crop_size[0], antialias=True
    )
    ours = classifier(num_classes=7, backbone={"name": name}, preprocessing=preprocessing).eval()
    load_torchvision_weights(ours, theirs.state_dict())
    return theirs, transform, ours


@pytest.mark.parametrize(
    ("name", "tag"),
    [("resnet18", "IMAGENET1K_V1"), ("resnext50_32x4d", "IMAGENET1K_V2")],
)
@pytest.mark.parametrize("cut", [np.s_[:], np.s_[:, :301], np.s_[:200, :180]], ids=["wide", "tall", "small"])
def test_logits_and_preprocessing_equal_torchvision(name: str, tag: str, cut) -> None:
    theirs, transform, ours = oracle(name, tag)
    photographs = [np.ascontiguousarray(photograph[cut]) for photograph in PHOTOGRAPHS]
    # From PIL images, as published accuracies are measured; of tensors torchvision resizes some pixels otherwise.
    inputs = torch.stack([transform(Image.fromarray(photograph)) for photograph in photographs])
    batch = batch_images(photographs, ours.preprocessing)
    pixels = ours.preprocessing.normalize(batch.images, batch.sizes)
    torch.testing.assert_close(pixels, inputs, rtol=0, atol=2e-6)
    with torch.inference_mode():
        expected, found = theirs(inputs), ours(batch).logits
    assert expected.std() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_weights_of_another_network_are_refused() -> None:
    theirs = torchvision.models.resnet34(num_classes=3).state_dict()
    with pytest.raises(ValueError, match="do not fit this classifier: 0 missing, .* left over"):
        load_torchvision_weights(small(), theirs)
    with pytest.raises(ValueError, match="2 of another shape .the first: head.bias.*number of classes"):
        load_torchvision_weights(
            small(num_classes=4), torchvision.models.resnet18(num_classes=3).state_dict()
        )


def test_old_weights_without_counters_load() -> None:
    state = torchvision.models.resnet18(num_classes=3).state_dict()
    load_torchvision_weights(small(), {k: v for k, v in state.items() if "num_batches" not in k})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "model.label_smoothing=1.0 must be at least 0 and below 1"),
        ({"dropout": -0.1}, "model.dropout=-0.1 must be at least 0"),
        ({"class_weights": [1, 2]}, "model.class_weights=.1, 2. must be 3 numbers, one per class"),
        ({"class_weights": [1, 2, -1]}, "none negative"),
        ({"class_weights": [0, 0, 0]}, "not all 0"),
        ({"backbone": {"name": "resnet19"}}, "resnet19.*resnet18"),
    ],
)
def test_bad_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**options)


def test_pyramid_may_stand_between() -> None:
    model = small(pyramid={"name": "fpn", "channels": 8})
    found = model(batch_images([PHOTOGRAPHS[0][:64, :64].copy()], Preprocessing(short_side=None)))
    assert found.logits.shape == (1, 3)


def test_head_moves_by_class_name() -> None:
    spec = {"name": "classifier", "backbone": {"name": "cifar_resnet20"}, "pyramid": None}
    models = []
    for names in (["cat", "dog"], ["dog", "horse"]):
        model = build_model(spec, num_classes=2, preprocessing=Preprocessing())
        model.header = Header("classification", resolved_spec(spec, model), names, [0, 1], {})
        torch.nn.init.uniform_(model.head.bias)
        models.append(model)
    source, target = models
    fresh = target.head.weight[1].clone()
    assert transfer(target, source).moved_classes == ["dog"]
    assert torch.equal(target.head.weight[0], source.head.weight[1])
    assert target.head.bias[0] == source.head.bias[1]
    assert torch.equal(target.head.weight[1], fresh)


def test_predictions_read_no_targets() -> None:
    model = small()
    batch = batch_images([PHOTOGRAPHS[0][:64, :64].copy()], Preprocessing(short_side=None))
    assert batch.class_ids is None
    assert model(batch).logits.shape == (1, 3)
