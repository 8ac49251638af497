"""What training chooses by itself: norms, learning rates, the number of images; and what it refuses."""

import contextlib
import re

import pytest
import torch

from tasks.cli.compose import compose
from tasks.cli.train import train
from tasks.contracts import Batch
from tasks.data.datamodule import DataModule
from tasks.data.formats.digits import DigitsData
from tasks.data.loading.settings import LoaderSettings
from tasks.harness import batch_size as sizes
from tasks.harness.auto import backbone_norm, with_norm, with_rate, workers
from tasks.harness.batch_size import largest_batch_size
from tasks.harness.session import backends
from tasks.harness.settings import OptimizerSettings, TrainerSettings, TrainSettings
from tasks.preprocessing import Preprocessing
from tasks.zoo.registry import build_model
from tests.tiny_runs import TINY, checkpoint, rows, tiny_run


@pytest.mark.parametrize(
    ("counts", "rate", "sentence"),
    [
        ((2, 1, 1), 0.0025, "batch 2 x 1 device x 1 accumulated: 0.0025 for the recipe's 0.02 at 16"),
        ((2, 8, 1), 0.02, "batch 2 x 8 devices x 1 accumulated: 0.02 for the recipe's 0.02 at 16"),
        ((2, 1, 8), 0.02, "batch 2 x 1 device x 8 accumulated: 0.02 for the recipe's 0.02 at 16"),
        ((4, 8, 2), 0.08, "batch 4 x 8 devices x 2 accumulated: 0.08 for the recipe's 0.02 at 16"),
    ],
)
def test_the_rate_follows_the_images_of_a_step(counts, rate, sentence) -> None:
    optimizer, remarks = with_rate(OptimizerSettings(lr=0.02), 16, *counts)
    assert optimizer.lr == pytest.approx(rate) and remarks == [sentence]
    assert with_rate(optimizer, None, *counts) == (optimizer, [])


def test_a_run_has_the_rate_that_it_prints(tmp_path, capsys) -> None:
    words = ["optimizer=sgd", "schedule=constant", "trainer.accumulate_grad_batches=2", "loader.batch_size=2"]
    tiny_run("classification", tmp_path / "run", *words, steps=2)
    assert (
        "batch 2 x 1 device x 2 accumulated: 0.005 for the recipe's 0.01 at 32" not in capsys.readouterr().out
    )
    tiny_run("classification", tmp_path / "again", *words, "optimizer.lr=0.02", "recipe=[]", steps=2)
    assert "batch 2 x 1 device x 2 accumulated: 0.005 for the recipe's 0.02 at 16" in capsys.readouterr().out
    groups = checkpoint(tmp_path / "again")["optimizer_states"][0]["param_groups"]
    assert {group["lr"] for group in groups} == {0.005}


@pytest.mark.parametrize(
    ("backbone", "norm", "images", "starts_from", "expected", "words"),
    [
        ({"name": "resnet50"}, "auto", 16, None, None, ""),
        ({"name": "resnet50"}, "auto", 15, None, "group", "norm=auto: 15 images a device, fewer than 16"),
        (
            {"name": "resnet50"},
            "auto",
            1,
            "batch",
            "frozen",
            "norm=auto: 1 image a device, .* frozen batch norm",
        ),
        ({"name": "resnet50"}, "auto", 16, "batch", None, ""),
        ({"name": "resnet50"}, "auto", 2, "group", "group", ""),
        ({"name": "resnet50", "norm": "batch"}, "auto", 2, None, None, ""),
        ({"name": "resnet50", "norm": "batch"}, "group", 2, None, None, ""),
        ({"name": "resnet50"}, "batch", 2, None, "batch", ""),
        ({"name": "vgg16"}, "auto", 2, None, None, ""),  # has none
        ({"name": "vgg16_bn"}, "auto", 2, None, "group", "group norm"),
        ({"name": "timm", "model": "x"}, "auto", 2, None, None, ""),  # brings its own
    ],
)
def test_norm(backbone, norm, images, starts_from, expected, words) -> None:
    chosen, sentence = backbone_norm(backbone, norm, batch_size=images, starts_from=starts_from)
    assert chosen == expected
    assert re.search(words, sentence)
    assert bool(sentence) == bool(words)


def test_recipes_keep_their_norm_and_others_say_what_was_chosen(tmp_path, capsys) -> None:
    tiny_run("detection", tmp_path / "recipe", steps=1)
    assert "norm=auto" not in capsys.readouterr().out
    assert checkpoint(tmp_path / "recipe")["vertebra"]["model"]["backbone"]["norm"] == "batch"
    tiny_run("detection", tmp_path / "auto", "norm=auto", steps=1)
    assert "norm=auto: 4 images a device, fewer than 16, are few for batch norm" in capsys.readouterr().out
    assert checkpoint(tmp_path / "auto")["vertebra"]["model"]["backbone"]["norm"] == "group"


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("norm=bacth", "norm=bacth; did you mean batch"),
        ("compile=model", "compile=model must be one of backbone"),
        ("ema=2", "ema=2 must lie between 0 and 1"),
        ("early_stopping=0", "early_stopping=0 must be a number of validations"),
        ("on_nonfinite=ignore", "on_nonfinite=ignore must be one of stop, skip"),
        ("reference_batch_size=0", "reference_batch_size=0 must be at least 1"),
        ("checkpointing.keep_best=0", "checkpointing.keep_best=0"),
        ("checkpointing.every_steps=0", "every_steps=0"),
        ("trainer=gpu", "trainer.accelerator=gpu: torch sees no GPU on this machine; trainer=cpu"),
        ("loader.batch_size=0", "loader.batch_size=0 must be a whole number, at least 1"),
    ],
)
def test_settings_that_mean_nothing(setting: str, message: str, tmp_path, monkeypatch) -> None:
    if setting == "trainer=gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(compose("train", [*TINY["detection"][:1], "data.num_train=8", setting]))
    assert not list(tmp_path.iterdir())


def test_compile_without_a_compiler(monkeypatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="compile=backbone needs a C\\+\\+ compiler"):
        TrainSettings(compile="backbone")


def test_workers_are_as_many_as_cores_where_a_gpu_computes(monkeypatch) -> None:
    monkeypatch.setattr("tasks.data.loading.settings.num_cores", lambda: 16)
    monkeypatch.setattr("tasks.harness.auto.num_cores", lambda: 16)
    gpu, cpu, usual = torch.device("cuda"), torch.device("cpu"), LoaderSettings()
    assert workers(usual, cpu, 1) == (0, [])
    assert workers(usual, gpu, 1) == (8, ["loader.num_workers=auto: 8 of 16 cores"])
    assert workers(usual, gpu, 4) == (3, ["loader.num_workers=auto: 3 for each of 4 GPUs of 16 cores"])
    assert workers(usual, gpu, 16)[0] == 1
    assert workers(LoaderSettings(num_workers=2), gpu, 1) == (2, [])
    for value in (-1, "many"):
        with pytest.raises(
            ValueError, match="loader.num_workers=.* must be a whole number, at least 0, or auto"
        ):
            LoaderSettings(num_workers=value)


def test_what_a_gpu_is_told_is_put_back() -> None:
    def told() -> tuple:
        cudnn = torch.backends.cudnn
        return torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark

    def fail() -> None:
        with backends(torch.device("cuda"), tf32=False, benchmark=True) as sentence:
            assert told() == ("highest", False, True)
            assert sentence == "TF32 off (tf32), cuDNN's search for algorithms on (trainer.benchmark)"
            raise KeyError

    before = told()
    with pytest.raises(KeyError):
        fail()
    assert told() == before
    with backends(torch.device("cuda"), tf32=True, benchmark=False):
        assert told() == ("high", True, False)
    with backends(torch.device("cpu"), tf32=True, benchmark=True) as sentence:
        assert told() == before and sentence == ""


def test_one_batch_is_learnt_by_heart(tmp_path) -> None:
    folder = tmp_path / "run"
    words = ["trainer=overfit", "trainer.max_epochs=30", "trainer.log_every_n_steps=1"]
    train(compose("train", [*TINY["classification"], *words, f"run_dir={folder}"]))
    losses = [row["train/loss"] for row in rows(folder) if "train/loss" in row]
    assert len(losses) == 30  # steps, each of the same four images
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("choice", ["cpu", "debug"])
def test_trainers(choice: str, tmp_path) -> None:
    folder = tmp_path / "run"
    words = [word for word in TINY["classification"] if not word.startswith("trainer.")]
    train(compose("train", [*words, f"trainer={choice}", "trainer.accelerator=cpu", "trainer.max_steps=3",
                            f"run_dir={folder}"]))  # fmt: skip
    assert checkpoint(folder)["global_step"] == 3


def test_early_stopping_and_the_number_of_kept_checkpoints(tmp_path) -> None:
    folder = tmp_path / "run"
    words = [
        "early_stopping=2",
        "trainer.val_check_interval=1",
        "checkpointing.keep_best=2",
        "optimizer.lr=0.0",
    ]
    tiny_run("classification", folder, *words, steps=40)
    assert checkpoint(folder)["global_step"] == 3  # the first is the best, two more are not better
    assert len(list((folder / "checkpoints").iterdir())) == 3  # two best and the last


def network_and_batches(size: int = 96):
    preprocessing = Preprocessing(short_side=size, max_size=size)
    data = DataModule(DigitsData(num_train=8, size=size), preprocessing, batch_size=1)
    spec = {
        "name": "faster_rcnn",
        "backbone": {"name": "resnet", "block": "basic", "blocks": [1, 1], "widths": [8, 16]},
        "pyramid": {"channels": 16},
    }
    model = build_model(spec, num_classes=10, preprocessing=preprocessing)

    def batches(count: int) -> Batch:
        return next(iter(data.with_batch_size(count).train_dataloader()))

    return model, batches


def test_batch_size_that_fits(monkeypatch) -> None:
    def found(free: int, num_images: int = 1000) -> int:
        model, batches = network_and_batches()
        monkeypatch.setattr(sizes, "free_memory", lambda device: free)
        return largest_batch_size(
            model, batches, num_images=num_images, device=torch.device("cpu"), autocast=contextlib.nullcontext
        )

    model, batches = network_and_batches()
    one, two, four = (
        sizes._measured_on_cpu(model, batches(n), torch.device("cpu"), contextlib.nullcontext)
        for n in (1, 2, 4)
    )
    assert four - two == pytest.approx(2 * (two - one), rel=0.3)  # memory grows evenly
    plenty = found(2**40)
    assert plenty == sizes.MOST
    assert found(2**40, num_images=7) == 4
    fewer = found(int((one + 8.5 * (two - one)) / sizes.SHARE))
    assert fewer == 8
    with pytest.raises(ValueError, match="one image needs .* lower preprocessing.short_side"):
        found(1000)


def test_batch_size_auto_in_a_run(tmp_path, capsys) -> None:
    folder = tmp_path / "run"
    tiny_run("detection", folder, "loader.batch_size=auto", "data.num_train=9", steps=1)
    assert "loader.batch_size=auto: 8 fit" in capsys.readouterr().out
    assert checkpoint(folder)["config"]["loader"]["batch_size"] == 8
    with pytest.raises(ValueError, match="loader.batch_size=auto measures one device, and trainer.devices=2"):
        tiny_run("detection", tmp_path / "two", "loader.batch_size=auto", "trainer.devices=2")


def test_free_memory_is_less_than_there_is() -> None:
    assert 2**20 < sizes.free_memory(torch.device("cpu")) < 2**45


@pytest.mark.parametrize("devices", [1, 4, "4", "auto", "-1", [0, 1, 2, 3]])
@pytest.mark.parametrize("shared", [True, False])
def test_norm_auto_builds_one_network_whatever_the_devices(devices, shared) -> None:
    settings = TrainSettings(
        trainer=TrainerSettings(devices=devices, sync_batchnorm=shared), loader=LoaderSettings(batch_size=4)
    )
    chosen, (sentence,) = with_norm({"name": "retinanet", "backbone": {"name": "resnet18"}}, settings)
    assert chosen["backbone"]["norm"] == "group"
    assert sentence.startswith("norm=auto: 4 images a device, fewer than 16")


@pytest.mark.parametrize("strategy", ["fsdp", "fsdp_cpu_offload", "deepspeed_stage_2", "ddpp"])
def test_networks_in_pieces_are_refused(strategy: str, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match=rf"trainer.strategy={strategy}; .*ddp.*cut into pieces .*: take ddp"
    ):
        train(compose("train", [*TINY["detection"], f"trainer.strategy={strategy}", "trainer.devices=2"]))
    assert not list(tmp_path.iterdir())
