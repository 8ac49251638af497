"""The two heads: shapes on every family of backbones, parity with torchvision, hand-made sums, padding."""

import math

import pytest
import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torchvision.models.segmentation import deeplabv3_resnet50

import backbones
from backbones import FeatureInfo
from tasks.cli.compose import compose
from tasks.contracts import Batch
from tasks.preprocessing import Preprocessing
from tasks.semantic_segmentation.aspp_head import valid_cells
from tasks.semantic_segmentation.fpn_head import FPNHead
from tasks.semantic_segmentation.segmenter import deeplabv3, semantic_fpn
from tasks.semantic_segmentation.torchvision_weights import load_torchvision_weights
from tasks.targets import IGNORE_LABEL
from tasks.zoo.registry import build_model, resolved_spec

NUM_CLASSES = 4


def batch_of(images: torch.Tensor, sizes: list[tuple[int, int]] | None = None) -> Batch:
    num_images, _, height, width = images.shape
    valid = torch.tensor(sizes or [(height, width)] * num_images)
    class_maps = torch.full((num_images, height, width), IGNORE_LABEL, dtype=torch.uint8)
    for i, (h, w) in enumerate(valid.tolist()):
        class_maps[i, :h, :w] = torch.arange(h * w).view(h, w) % NUM_CLASSES
    return Batch(
        images=images,
        sizes=valid,
        original_sizes=valid,
        image_ids=torch.arange(num_images),
        boxes=torch.zeros(num_images, 0, 4),
        labels=torch.zeros(num_images, 0, dtype=torch.int64),
        is_crowd=torch.zeros(num_images, 0, dtype=torch.bool),
        class_maps=class_maps,
    )


def random_images(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("backbone", "stride"),
    [
        ({"name": "resnet18"}, 4),
        ({"name": "resnet18", "output_stride": 8}, 4),
        ({"name": "cifar_resnet20"}, 1),
        ({"name": "vgg11_bn"}, 4),
        ({"name": "timm", "model": "convnext_atto"}, 4),
        ({"name": "torchvision", "model": "mobilenet_v3_small"}, None),
    ],
    ids=lambda value: value.get("model", value["name"]) if isinstance(value, dict) else "",
)
def test_any_backbone_gives_losses_with_gradients(backbone: dict, stride: int | None) -> None:
    torch.manual_seed(0)
    model = semantic_fpn(
        num_classes=NUM_CLASSES,
        backbone=backbone,
        pyramid={"channels": 16},
        channels=16,
        loss="cross_entropy+dice",
    )
    batch = batch_of(random_images(2, 3, 72, 100))  # no multiple of 32: every level rounds up
    features = model.features(batch)
    losses = model.losses(features, batch)
    assert losses.keys() == {"loss_cross_entropy", "loss_dice"}
    scores = model.predictions(features, batch)
    finest = next(iter(model.backbone.feature_info.values())).stride
    assert stride in (None, finest)
    assert scores.logits.shape == (2, NUM_CLASSES, math.ceil(72 / finest), math.ceil(100 / finest))
    assert scores.image_size == (72, 100)
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())


def test_fpn_head_sums_upsampled_levels() -> None:
    """Figure 3 of the paper written out: one stage for p2 and p3, two for p4, none for what lies past p5."""
    torch.manual_seed(0)
    info = {f"p{n}": FeatureInfo(8, 2**n) for n in range(2, 8)}
    head = FPNHead(info, num_classes=NUM_CLASSES, channels=16)
    assert head.levels == ("p2", "p3", "p4", "p5")
    assert [len(stages) for stages in head.stages] == [1, 1, 2, 3]  # type: ignore[arg-type]
    maps = {f"p{n}": torch.randn(1, 8, 2 ** (7 - n), 2 ** (7 - n)) for n in range(2, 6)}
    total = torch.zeros(1, 16, 32, 32)
    for (level, x), stages in zip(maps.items(), head.stages, strict=True):
        for stage in stages:  # type: ignore[union-attr]
            x = stage(x)
            x = x if level == "p2" else F.interpolate(x, scale_factor=2, mode="bilinear")
        total = total + x
    torch.testing.assert_close(head(maps, torch.tensor([[128, 128]])), head.classes(total))


def test_deeplabv3_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = deeplabv3_resnet50(weights=None, weights_backbone=None, num_classes=NUM_CLASSES, aux_loss=False)
    with torch.no_grad():  # norms as trained ones are, or every branch would be near the same
        for module in theirs.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    ours = deeplabv3(num_classes=NUM_CLASSES, backbone={"name": "resnet50", "output_stride": 8})
    load_torchvision_weights(ours, theirs.state_dict())
    batch = batch_of(random_images(2, 3, 96, 128))
    theirs.eval()
    ours.eval()
    with torch.inference_mode():
        pixels = Preprocessing().normalize(batch.images, batch.sizes)
        expected = theirs(pixels)["out"]
        scores = ours(batch)
        loss = ours.losses(ours.features(batch), batch)["loss_cross_entropy"]
    found = F.interpolate(scores.logits, scores.image_size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
    assert batch.class_maps is not None
    torch.testing.assert_close(loss, F.cross_entropy(expected, batch.class_maps.long()), rtol=1e-4, atol=0)


def test_torchvision_weights_of_another_network_are_refused() -> None:
    ours = deeplabv3(num_classes=NUM_CLASSES, backbone={"name": "resnet18"}, channels=8)
    with pytest.raises(
        ValueError, match=r"do not fit this segmenter: \d+ missing.*build it with the backbone"
    ):
        load_torchvision_weights(ours, {"classifier.4.bias": torch.zeros(3)})


@pytest.mark.parametrize(("output_stride", "rates"), [(8, (12, 24, 36)), (16, (6, 12, 18)), (32, (3, 6, 9))])
def test_rates_follow_the_stride(output_stride: int, rates: tuple[int, ...]) -> None:
    """DeepLabV3, section 3.3: (6, 12, 18) at stride 16, doubled at 8."""
    model = deeplabv3(
        num_classes=2, backbone={"name": "resnet18", "output_stride": output_stride}, channels=8
    )
    dilated = [m.dilation[0] for m in model.head.modules() if isinstance(m, torch.nn.Conv2d)]
    assert [d for d in dilated if d > 1] == list(rates)


def test_mean_of_the_image_leaves_padding_out() -> None:
    """The image alone and the image in a padded batch: equal where no 3x3 kernel reaches the padding."""
    torch.manual_seed(0)
    model = deeplabv3(num_classes=3, backbone={"name": "resnet18"}, channels=8, rates=[1]).eval()
    maps = torch.randn(1, 512, 3, 3)
    padded = F.pad(maps, (0, 2, 0, 1), value=9.0)
    pool = model.head[0].convs[-1]  # type: ignore[union-attr]
    sizes = torch.tensor([[96, 96]])
    alone = pool(maps, valid_cells(maps, sizes, 32))
    together = pool(padded, valid_cells(padded, sizes, 32))
    torch.testing.assert_close(alone[..., 0, 0], together[..., 0, 0])
    assert valid_cells(padded, torch.tensor([[65, 1]]), 32)[0, 0].tolist() == [[1, 0, 0, 0, 0]] * 3 + [
        [0] * 5
    ]


def test_one_image_a_step_with_batch_norm() -> None:
    batch = batch_of(random_images(1, 3, 64, 64))
    model = deeplabv3(num_classes=NUM_CLASSES, backbone={"name": "resnet18"}, channels=8)
    with pytest.raises(ValueError, match=r"at least two images a batch.*loader.batch_size.*model.norm=group"):
        model.losses(model.features(batch), batch)
    grouped = deeplabv3(num_classes=NUM_CLASSES, backbone={"name": "resnet18"}, channels=8, norm="group")
    assert grouped.losses(grouped.features(batch), batch)["loss_cross_entropy"].isfinite()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "focal"}, "model.loss=focal is unknown; wanted one of cross_entropy, dice"),
        ({"dropout": 1.0}, "model.dropout=1.0 must be at least 0 and below 1"),
    ],
)
def test_bad_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        deeplabv3(num_classes=2, backbone={"name": "resnet18"}, **options)


def test_a_pyramid_under_deeplabv3_is_left_out_and_said_to_be() -> None:
    """As where the recipe of a data set gives one: task=semantic_segmentation model=deeplabv3."""
    config = OmegaConf.to_container(compose("train", ["task=semantic_segmentation", "model=deeplabv3"]))
    assert isinstance(config, dict)
    spec = {**config["model"], "backbone": config["backbone"], "pyramid": config["pyramid"]}
    with pytest.warns(UserWarning, match="pyramid=.* is not used"):
        model = build_model(spec, num_classes=3, preprocessing=Preprocessing(short_side=None))
    resolved = resolved_spec(spec, model)
    assert resolved["pyramid"] is None
    assert resolved["backbone"]["output_stride"] == 16
    build_model(resolved, num_classes=3, preprocessing=Preprocessing())  # a warning would be an error


def test_class_layers_have_an_output_for_each_class() -> None:
    for model in (
        semantic_fpn(num_classes=5, backbone={"name": "resnet18"}, pyramid={"channels": 8}, channels=8),
        deeplabv3(num_classes=5, backbone={"name": "resnet18"}, channels=8),
    ):
        ((layer, outputs),) = model.class_layers().items()
        assert outputs == 1
        assert len(model.get_submodule(layer).bias) == 5  # type: ignore[arg-type]


def test_extractor_is_described() -> None:
    model = semantic_fpn(num_classes=2, backbone={"name": "resnet18"}, pyramid={"channels": 8}, channels=8)
    rebuilt = backbones.build(model.backbone.spec)  # type: ignore[arg-type]
    assert rebuilt.state_dict().keys() == model.backbone.state_dict().keys()
