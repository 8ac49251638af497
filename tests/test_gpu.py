"""Every task and detector on a GPU: steps in bf16, resuming from a checkpoint to the bit, the CPU's predictions."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tasks
from tasks.data.formats.digits import DigitsData, SingleDigitsData
from tests.test_exact_resume import check_resume
from tests.tiny_runs import TINY, checkpoint, tiny_run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
ON_GPU = ["trainer.accelerator=gpu", "precision=bf16-mixed"]


@pytest.fixture(scope="module", params=TINY)
def run(request, tmp_path_factory) -> tuple[str, Path]:
    """Four steps in bf16."""
    return request.param, tiny_run(request.param, tmp_path_factory.mktemp("run") / "run", *ON_GPU)


def test_steps_in_bf16(run: tuple[str, Path]) -> None:
    kept = checkpoint(run[1])
    assert kept["global_step"] == 4
    assert all(value.isfinite().all() for value in kept["state_dict"].values())


def test_predicts_as_the_cpu_does(run: tuple[str, Path]) -> None:
    name, folder = run
    source = (
        SingleDigitsData(num_train=1, num_val=3, num_test=1)
        if name == "classification"
        else DigitsData(size=96, num_train=1, num_val=3, num_test=1)
    )
    split = source.split("val")
    images = [np.asarray(split.image(i)) for i in range(3)]
    options = {} if name in ("classification", "semantic_segmentation") else {"score_threshold": 0.0}
    results = [
        tasks.load_predictor(folder / "model.safetensors", device=device, precision="32-true", **options)(
            images
        )
        for device in ("cpu", "cuda")
    ]
    for a, b in zip(*results, strict=True):
        for part, value in vars(a).items():
            other = getattr(b, part)
            if part == "class_map":  # two classes may be equally likely
                assert (np.asarray(value) == np.asarray(other)).mean() > 0.99
            elif part in ("scores", "probabilities"):
                np.testing.assert_allclose(np.asarray(other)[:5], np.asarray(value)[:5], atol=2e-3)


@pytest.mark.parametrize("name", TINY)
def test_goes_on_to_the_bit(name: str, tmp_path: Path, monkeypatch) -> None:
    check_resume(name, [*ON_GPU, "trainer.deterministic=true"], tmp_path, monkeypatch)


class TotalLoss(torch.nn.Module):
    """A network whose call is its loss, as DDP wants it."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Any) -> torch.Tensor:
        return torch.stack(list(self.model.losses(self.model.features(batch), batch).values())).sum()


def two_steps(rank: int, folder: str) -> None:
    """Of one of two processes that share the card, each with an image of its own."""
    from tests.device.small_models import make_batch, small_model

    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.manual_seed(0)
    network = TotalLoss(small_model("retinanet").train()).to("cuda")
    parallel = torch.nn.parallel.DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    batch = make_batch(2, 96, 128).to("cuda")
    for _ in range(2):
        parallel(batch).backward()
        optimizer.step()
        optimizer.zero_grad()
    torch.save([p.detach().cpu() for p in network.parameters()], f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_on_one_card(tmp_path: Path) -> None:
    """NCCL refuses two ranks on a card; gloo does not."""
    torch.multiprocessing.spawn(two_steps, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert all(a.equal(b) and a.isfinite().all() for a, b in zip(first, second, strict=True))
