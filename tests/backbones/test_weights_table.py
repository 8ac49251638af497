"""The table of published weights says what torchvision and timm say of the same files."""

import math
import re

import pytest
import timm
from torchvision import models

import backbones
from backbones.weights import SHA256, WEIGHTS

TIMM_NAMES = ("resnet18d", "resnet34d", "resnet50d", "resnet101d", "resnet152d")
OURS = ("resnet", "resnext", "wide_resnet", "vgg")


def test_every_file_of_torchvision_is_in_the_table_with_its_metadata():
    names = [name for name in models.list_models(module=models) if name.startswith(OURS)]
    assert sorted(names) == sorted(set(WEIGHTS) - set(TIMM_NAMES))
    for name in names:
        entries = models.get_model_weights(name)
        assert set(WEIGHTS[name]) == {entry.name for entry in entries}
        assert list(WEIGHTS[name])[-1] == entries["DEFAULT"].name  # what pretrained=True takes
        for entry in entries:
            ours, preset = WEIGHTS[name][entry.name], entry.transforms()
            top1 = entry.meta["_metrics"]["ImageNet-1K"]["acc@1"]
            assert ours.url == entry.url
            assert ours.top1 == (None if math.isnan(top1) else top1)
            assert [ours.resize] == preset.resize_size
            assert [ours.crop] == preset.crop_size
            assert ours.interpolation == preset.interpolation.value
            assert list(ours.mean) == preset.mean
            assert list(ours.std) == preset.std


@pytest.mark.parametrize("name", TIMM_NAMES)
def test_timms_files_are_those_of_its_configuration(name):
    (tag, ours), config = next(iter(WEIGHTS[name].items())), timm.get_pretrained_cfg(name)
    assert tag == config.tag
    assert ours.url == config.url
    assert ours.crop == config.test_input_size[-1]
    assert ours.resize == math.floor(config.test_input_size[-1] / config.test_crop_pct)
    assert (ours.interpolation, ours.mean, ours.std) == (config.interpolation, config.mean, config.std)
    assert ours.licence.lower() == config.license


def test_digests_begin_as_the_file_names_end():
    files = {entry.file: entry for tags in WEIGHTS.values() for entry in tags.values()}
    assert set(SHA256) <= set(files)
    for file, entry in files.items():
        assert re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{64}", entry.sha256), file
        assert file.removesuffix(".pth").endswith(entry.sha256[:8])


def test_entries_are_complete():
    for name, tags in WEIGHTS.items():
        assert name in backbones.available()
        for entry in tags.values():
            assert entry.url.startswith("https://")
            assert entry.licence in ("BSD-3-Clause", "Apache-2.0", "CC-BY-4.0")
            assert entry.top1 is None or 60 < entry.top1 < 90
