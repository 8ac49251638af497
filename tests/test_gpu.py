"""Every task and detector on a GPU: steps in bf16, going on from a checkpoint to the bit, the CPU's predictions."""

from pathlib import Path

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
