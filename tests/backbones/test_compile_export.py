"""ResNet extractors compile and export, and give the same maps as before."""

import shutil

import pytest
import torch

import backbones

SMALL = {"blocks": [1, 1], "widths": [8, 16], "block": "basic"}


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for level, x in theirs.items():
        torch.testing.assert_close(ours[level], x, rtol=1e-4, atol=1e-4, msg=level)


@torch.no_grad()
@pytest.mark.parametrize("pyramid", [None, "fpn", "pafpn"])
def test_export_for_any_size(pyramid):
    extractor = backbones.create("resnet18").eval()
    if pyramid:
        extractor = backbones.create_pyramid(extractor, pyramid, channels=16).eval()
    # large enough that p6 has several cells: export takes a size of one for a constant
    images, any_size = torch.randn(2, 3, 160, 224), torch.export.Dim.AUTO
    shapes = ({0: any_size, 2: any_size, 3: any_size},)
    # torch 2.11 guards a parity of the height that it met while tracing, and on which the graph does not depend.
    exported = torch.export.export(extractor, (images,), dynamic_shapes=shapes).module(check_guards=False)
    for shape in (images.shape, (3, 3, 129, 255), (1, 3, 320, 96)):
        images = torch.randn(*shape)
        assert_same(exported(images), extractor(images))


@torch.no_grad()
def test_no_graph_break_when_compiled():
    """Tracing alone, without generating code."""
    extractor = backbones.create("resnet18").eval()
    compiled = torch.compile(extractor, backend="eager", fullgraph=True)
    for size in ((64, 96), (65, 127)):
        images = torch.randn(1, 3, *size)
        assert_same(compiled(images), extractor(images))


def test_compiled_training_step_with_frozen_and_checkpointed_stages():
    torch.manual_seed(0)
    extractor = backbones.create("resnet", frozen_stages=1, checkpoint_stages=[2], **SMALL)
    images = torch.randn(2, 3, 64, 64)
    twin = backbones.build(extractor.spec)
    twin.load_state_dict(extractor.state_dict())
    for network in (torch.compile(extractor, backend="aot_eager"), twin):
        sum(x.square().mean() for x in network(images).values()).backward()
    for (key, ours), theirs in zip(extractor.named_parameters(), twin.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None), key
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, msg=key)
    for (key, ours), theirs in zip(extractor.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=key)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="needs a C++ compiler")
@torch.no_grad()
def test_compiled_code_gives_the_same_maps():
    extractor = backbones.create("resnet18").eval()
    compiled = torch.compile(extractor)
    images = torch.randn(1, 3, 64, 96)
    assert_same(compiled(images), extractor(images))
