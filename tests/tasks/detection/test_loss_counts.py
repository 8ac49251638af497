"""Ranks exchange all counts of a step at once, however many losses there are."""

import pytest
import torch
import torch.distributed

from tests.device.small_models import MODELS, make_batch, small_model


@pytest.fixture(scope="module", autouse=True)
def one_rank(tmp_path_factory):
    store = torch.distributed.FileStore(str(tmp_path_factory.mktemp("ranks") / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


NONE = {"classifier", "retinanet"}  # the mean of each image's, as published


@pytest.mark.parametrize("kind", [kind for kind in MODELS if " " not in kind and kind != "deeplabv3"])
def test_one_all_reduce_a_step(kind: str, monkeypatch) -> None:
    model, batch = small_model(kind).train(), make_batch(4, pin=False)
    torch.manual_seed(0)
    with torch.no_grad():  # each rank for itself
        alone = model.losses(model.features(batch), batch)
    calls = []
    all_reduce = torch.distributed.all_reduce
    monkeypatch.setattr(
        torch.distributed, "all_reduce", lambda *arguments: calls.append(1) or all_reduce(*arguments)
    )
    torch.manual_seed(0)
    losses = model.losses(model.features(batch), batch)
    assert len(calls) == (kind not in NONE)
    for name, loss in alone.items():
        assert torch.equal(losses[name], loss), name
