"""Frozen stages get no gradient and their statistics stay the same to the bit, under Lightning as well."""

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

import backbones

SMALL = {"blocks": [1, 1, 1, 1], "widths": [8, 8, 16, 16], "block": "basic"}
NETWORKS = [
    ("resnet", SMALL),
    ("resnet", SMALL | {"stem": "deep", "downsample": "pool", "norm": "sync"}),
    ("resnet", SMALL | {"shortcut": "none", "checkpoint_stages": [1, 2, 3]}),
    ("cifar_resnet20", {}),
    ("vgg", {"convolutions": [1, 1, 1, 1, 1], "norm": "batch"}),
    ("timm", {"model": "resnet10t"}),
    ("torchvision", {"model": "mobilenet_v3_small"}),
]


def frozen_keys(extractor, num_stages):
    names = [name for stage in extractor.stages[: num_stages + 1] for name in stage]
    return [key for key in extractor.state_dict() if any(key.startswith(f"{name}.") for name in names)]


def copied(extractor):
    return {key: value.clone() for key, value in extractor.state_dict().items()}


def loss_of(extractor, images):
    return sum(x.square().mean() for x in extractor(images).values())


@pytest.mark.parametrize(("name", "options"), NETWORKS)
@pytest.mark.parametrize("num_stages", [0, 2])
def test_frozen_stages_stay_as_they_are(name, options, num_stages, monkeypatch):
    if (
        options.get("norm") == "sync"
    ):  # needs a GPU in training; freezing it is the same on a CPU in evaluation
        monkeypatch.setattr(nn.SyncBatchNorm, "forward", nn.BatchNorm2d.forward)
        monkeypatch.setattr(nn.SyncBatchNorm, "_check_input_dim", nn.BatchNorm2d._check_input_dim)
    torch.manual_seed(0)
    extractor = backbones.create(name, frozen_stages=num_stages, **options)
    frozen, before = frozen_keys(extractor, num_stages), copied(extractor)
    assert any("running_mean" in key for key in frozen)
    parameters = dict(extractor.named_parameters())
    assert {key for key, p in parameters.items() if not p.requires_grad} == set(frozen) & set(parameters)
    # weight decay moves whatever an optimiser is given, so give it everything
    optimizer = torch.optim.SGD(extractor.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        extractor.train(False)
        extractor.train()
        optimizer.zero_grad()
        loss_of(extractor, torch.randn(2, 3, 64, 64)).backward()
        optimizer.step()
    after = extractor.state_dict()
    assert [key for key in frozen if not torch.equal(before[key], after[key])] == []
    moving = [key for key in after if key not in frozen and key.endswith(("running_mean", "weight"))]
    assert [key for key in moving if torch.equal(before[key], after[key])] == []
    assert all(parameters[key].grad is None for key in frozen if key in parameters)


class Training(lightning.LightningModule):
    """A backbone that learns to make its maps small."""

    def __init__(self, extractor):
        super().__init__()
        self.extractor = extractor

    def training_step(self, images):
        return loss_of(self.extractor, images)

    def validation_step(self, images):
        return loss_of(self.extractor, images)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=0.1)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # Lightning 2.6.6 on torch 2.14
@pytest.mark.filterwarnings("ignore:.*does not have many workers")  # these four images need none
@pytest.mark.filterwarnings("ignore:.*in eval mode at the start of training")  # as is meant
@pytest.mark.parametrize("with_pyramid", [False, True])
def test_frozen_stages_under_lightning(with_pyramid, tmp_path):
    backbone = backbones.create("resnet", frozen_stages=2, **SMALL)
    extractor = backbones.with_fpn(backbone, channels=8) if with_pyramid else backbone
    frozen, before = frozen_keys(backbone, 2), copied(backbone)
    loader = DataLoader(torch.randn(4, 3, 64, 64), batch_size=2)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(Training(extractor), loader, loader)
    assert trainer.global_step == 4
    after = backbone.state_dict()
    assert [key for key in frozen if not torch.equal(before[key], after[key])] == []
    assert not torch.equal(before["layer3.0.bn1.running_mean"], after["layer3.0.bn1.running_mean"])
    assert not torch.equal(before["layer3.0.conv1.weight"], after["layer3.0.conv1.weight"])


def test_freezing_later_adds_and_never_thaws():
    extractor = backbones.create("resnet", **SMALL)
    backbones.freeze(extractor, None)
    assert all(p.requires_grad for p in extractor.parameters())
    backbones.freeze(extractor, 3)
    backbones.freeze(extractor, 1)
    assert not any(p.requires_grad for p in extractor.get_submodule("layer3").parameters())
    assert [extractor.get_submodule(f"layer{n}").training for n in (1, 2, 3, 4)] == [
        False,
        False,
        False,
        True,
    ]
    with pytest.raises(ValueError, match="of a pyramid, freeze the .backbone"):
        backbones.freeze(backbones.with_fpn(extractor), 1)


def test_frozen_norms_of_the_whole_network():
    extractor = backbones.create("timm", model="resnet10t", freeze_norms=True)
    before = copied(extractor)
    extractor.train()
    loss_of(extractor, torch.randn(2, 3, 64, 64)).backward()
    after = extractor.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in after)
    norms = [m for m in extractor.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(p.requires_grad for norm in norms for p in norm.parameters())


def test_statistics_are_counted_once_with_checkpointing():
    torch.manual_seed(0)
    plain = backbones.create("resnet", **SMALL)
    saving = backbones.create("resnet", checkpoint_stages=[1, 3], **SMALL)
    saving.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 64, 64)
    for extractor in (plain, saving):
        loss_of(extractor, images).backward()
    for (key, ours), theirs in zip(saving.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), key
    for (key, ours), theirs in zip(saving.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=key)
