"""tools/residual_study.py: what it records against counts by hand, what it writes, and how it goes on."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import backbones
from tasks.cli.compose import compose
from tasks.cli.residual_study import residual_study as study
from tasks.contracts import Batch
from tasks.harness.task import Task
from tasks.studies import residual_study
from tasks.studies.residual_study import Recorder, error_table, read_results, weighted_layers

ROOT = Path(__file__).parents[1]
NETWORKS = ["plain_cifar_resnet20", "cifar_resnet20"]
TINY = [
    "data.size=8", "data.num_train=16", "data.num_test=10", "loader.batch_size=4", "steps=5", "points=2",
    "trainer.accelerator=cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def same_threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def run(folder: Path, *words: str, networks: list[str] = NETWORKS) -> dict[str, Any]:
    study(compose("residual_study", [*TINY, f"networks=[{','.join(networks)}]", f"run_dir={folder}", *words]))
    return json.loads((folder / "residual_study.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    run(folder)
    return folder


def results(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "residual_study.json").read_text())["networks"]


def test_writes_one_picture_and_one_json(done: Path) -> None:
    assert {path.name for path in done.iterdir()} == {"residual_study.json", "residual_study.png"}
    with Image.open(done / "residual_study.png") as picture:
        assert picture.width > 1000 and len(picture.convert("RGB").getcolors(2**20) or []) > 10


def test_points_of_the_curves(done: Path) -> None:
    for result in results(done).values():
        assert [(p["step"], p["over"]) for p in result["train"]] == [(2, 2), (4, 2), (5, 1)]
        assert [p["step"] for p in result["test"]] == [2, 4, 5]
        for point in (*result["train"], *result["test"]):
            count = point["error"] * (10 if "over" not in point else 4 * point["over"])
            assert count == pytest.approx(round(count), abs=1e-4)
            assert 0 <= point["error"] <= 1


def test_gradient_norms_cover_every_layer(done: Path) -> None:
    for result in results(done).values():
        norms = result["gradient_norm"]
        assert len(norms["layers"]) == len(norms["start"]) == len(norms["later"]) == 20
        assert norms["layers"][0] == "backbone.conv1" and norms["layers"][-1] == "head"
        assert min(norms["start"]) > 0
        assert norms["start"] != norms["later"]


def test_recorded_numbers_are_those_of_the_training_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors and first gradients against a second pass by hand over the same batches and weights."""
    wrong: list[float] = []
    norms: list[float] = []
    original = Task.training_step

    def step(self: Task, batch: Batch, batch_index: int) -> torch.Tensor:
        state = {key: value.clone() for key, value in self.model.state_dict().items()}
        logits = self.model.predictions(self.model.features(batch), batch).logits
        assert batch.class_ids is not None
        wrong.append((logits.argmax(1) != batch.class_ids).float().mean().item())
        if not norms:
            loss = torch.nn.functional.cross_entropy(logits, batch.class_ids)
            weights = [weight for _, weight in weighted_layers(self.model)]
            norms.extend(g.norm().item() for g in torch.autograd.grad(loss, weights))
        self.model.load_state_dict(state)  # the pass by hand moved the statistics of the norms
        return original(self, batch, batch_index)

    monkeypatch.setattr(Task, "training_step", step)
    found = run(tmp_path, networks=["cifar_resnet20"])["networks"]["cifar_resnet20"]
    by_hand = [sum(wrong[:2]) / 2, sum(wrong[2:4]) / 2, wrong[4]]
    assert [p["error"] for p in found["train"]] == pytest.approx(by_hand)
    assert found["gradient_norm"]["start"] == pytest.approx(norms, rel=1e-3)


def test_goes_on_where_it_was_interrupted(
    done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_network = residual_study.train_network
    trained: list[str] = []

    def interrupted(settings: Any, source: Any, name: str, reporter: Any) -> dict[str, Any]:
        if trained:
            raise KeyboardInterrupt
        trained.append(name)
        return train_network(settings, source, name, reporter)

    monkeypatch.setattr(residual_study, "train_network", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    assert list(results(tmp_path)) == NETWORKS[:1]
    assert (tmp_path / "residual_study.png").exists()
    trained.clear()
    run(tmp_path)
    assert trained == NETWORKS[1:]
    for name, result in results(done).items():  # the same as without the interruption
        assert results(tmp_path)[name]["train"] == result["train"]
        assert results(tmp_path)[name]["test"] == result["test"]


def test_another_study_in_the_folder_is_refused(done: Path, tmp_path: Path) -> None:
    before = (done / "residual_study.json").read_bytes()
    with pytest.raises(ValueError, match="has seed=0 and this one 1"):
        run(done, "seed=1")
    assert (done / "residual_study.json").read_bytes() == before
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(ValueError, match="no study's results"):
        read_results(tmp_path / "x.json", {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["networks=[cifar_resnet21]"], "no backbone is called 'cifar_resnet21'"),
        (["networks=[]"], "at least one name"),
        (["networks=[resnet18,resnet18]"], "none twice"),
        (["steps=0"], "steps=0"),
        (["threads=0"], "threads=0"),
    ],
)
def test_mistakes_are_told_before_anything_is_written(words: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        study(compose("residual_study", [*TINY, f"run_dir={tmp_path / 'new'}", *words]))
    assert not (tmp_path / "new").exists()


def test_layers_are_those_the_paper_counts() -> None:
    for name, count in (("plain_cifar_resnet56", 55), ("cifar_resnet56", 55), ("resnet50", 49)):
        assert len(weighted_layers(backbones.create(name))) == count  # the classifier is the last


def test_a_diverged_network_leaves_valid_json() -> None:
    recorder = Recorder(1, 1)
    recorder.norms = [torch.tensor([1.0, float("nan")]), torch.tensor([float("inf"), 2.0])]
    norms = recorder.results()["gradient_norm"]
    assert norms["start"] == [1.0, None] and norms["later"] == [None, None]


def test_table_shows_the_last_point() -> None:
    point = {"step": 2, "over": 1, "error": 0.25}
    table = error_table({"a": {"train": [point], "test": [{"step": 2, "error": 0.5}], "seconds": 3.0}})
    assert table.splitlines()[1].split() == ["a", "25.00", "%", "50.00", "%", "3"]


def test_cifar_takes_the_papers_recipe() -> None:
    config = compose("residual_study", ["data=cifar10", "data.file=x", "steps=64000"])
    assert config.optimizer.lr == 0.1 and config.optimizer.momentum == 0.9
    assert config.optimizer.weight_decay == 1e-4 and config.loader.batch_size == 128
    assert [share * config.steps for share in config.schedule.milestones] == [32000, 48000]
    assert [node._target_ for node in config.augmentation.transforms] == [
        "albumentations.Pad", "albumentations.RandomCrop", "albumentations.HorizontalFlip",
    ]  # fmt: skip


def test_help_of_the_tool() -> None:
    command = [sys.executable, ROOT / "tools" / "residual_study.py", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "networks:" in result.stdout
