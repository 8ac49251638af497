"""The programs that a person reads first do what they say, in as few lines as they should."""

import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import tasks
from tasks.zoo.model_file import save_model
from tests.scenes_on_disk import write_scenes
from tests.tasks.export.small_exports import model_with_header
from tests.tiny_runs import quiet_lightning

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"


def lines_of_code(name: str) -> int:
    return len([line for line in (EXAMPLES / name).read_text().splitlines() if line.strip()])


@pytest.mark.parametrize(("name", "most"), [("train_in_python.py", 12), ("plain_loop.py", 60)])
def test_they_are_short_and_know_no_hydra(name: str, most: int) -> None:
    assert lines_of_code(name) <= most
    assert "hydra" not in (EXAMPLES / name).read_text().lower()


def test_training_in_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """The file itself, on fewer images and steps."""
    train, open_data = tasks.train, tasks.data.open
    runs: list[Any] = []

    def few_steps(task: str, data: Any) -> Any:
        settings = tasks.recipe_settings(task, data)
        trainer = replace(
            settings.trainer,
            max_steps=2,
            val_check_interval="max_steps",
            accelerator="cpu",
            log_every_n_steps=1,
        )
        runs.append(train(task, data, settings=replace(settings, trainer=trainer, precision="32-true")))
        return runs[-1]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "train", few_steps, raising=False)
    monkeypatch.setattr(
        tasks.data, "open", lambda name: open_data(name, num_train=8, num_val=2, num_test=2, size=96)
    )
    quiet_lightning()
    exec(compile((EXAMPLES / "train_in_python.py").read_text(), "train_in_python.py", "exec"), {})
    (run,) = runs
    printed = capsys.readouterr().out.splitlines()
    assert 0 <= float(printed[0]) <= 1 and len(printed) == 2
    assert run.folder.parent == Path("runs") and run.model_file.is_file()
    assert run.numbers["AP"] == tasks.load_model(run.model_file).header.metrics["AP"]
    assert run.model.header.model["backbone"]["blocks"] == [1, 1, 1, 1]  # of the recipe


@pytest.mark.slow
def test_plain_loop(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "plain_loop.py"), "2"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["step", "step", "AP"]


def example(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Runs the program as `python examples/NAME ARGUMENTS` in `folder` would."""
    quiet_lightning()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


@pytest.mark.parametrize("name", ["own_backbone.py", "own_detector.py"])
def test_networks_of_ones_own(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    example(name, monkeypatch=monkeypatch, folder=tmp_path)
    printed = capsys.readouterr().out
    assert printed.count("loss_class") == 2 and printed.count("loss_box") == 2 and "nan" not in printed


def test_a_format_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    for index in range(4):
        Image.new("RGB", (40, 30), (60 * index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "classes.txt").write_text("cat dog")
    (tmp_path / "train.txt").write_text("0.png cat 1 2 10 10\n1.png dog 0 0 8 8\n0.png dog 20 5 10 10")
    (tmp_path / "val.txt").write_text("3.png cat 5 0 10 10")
    example("own_format.py", tmp_path, monkeypatch=monkeypatch, folder=tmp_path)
    assert "it occurs in one split alone" in capsys.readouterr().out  # the doctor, of the dog
    again = tasks.data.open("coco", root=tmp_path / "as_coco")
    assert again.split("train").annotations.boxes.tolist() == [[1, 2, 10, 10], [20, 5, 10, 10], [0, 0, 8, 8]]


def test_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    example("own_task.py", 2, monkeypatch=monkeypatch, folder=tmp_path)
    assert "mean error" in capsys.readouterr().out


def test_notebooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Own data, then the errors of the run that it leaves, on a few embedded scenes in COCO's format."""
    write_scenes(tmp_path / "DIR")
    train = tasks.train

    def one_step(task: str, data: Any, **more: Any) -> Any:
        said = {
            "pretrained": False,
            "trainer.max_steps": 1,
            "trainer.accelerator": "cpu",
            "precision": "32-true",
        }
        return train(task, data, **{**more, "settings": said, "backbone": "resnet18"})

    monkeypatch.setattr(tasks, "train", one_step, raising=False)
    example("notebooks/own_data.py", "DIR", monkeypatch=monkeypatch, folder=tmp_path)
    assert "6 images to train, 3 to validate" in capsys.readouterr().out
    assert (tmp_path / "first.jpg").is_file() and (tmp_path / "runs/notebook/report.html").is_file()
    example("notebooks/errors.py", "runs/notebook", monkeypatch=monkeypatch, folder=tmp_path)
    printed = capsys.readouterr().out
    assert re.search(r"^AP \d\.\d{3} \[", printed, re.MULTILINE) and "missed" in printed


@pytest.mark.slow
def test_the_notebook_on_shortcuts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    example("notebooks/shortcuts.py", 2, monkeypatch=monkeypatch, folder=tmp_path)
    assert "cifar_resnet56" in capsys.readouterr().out
    assert (tmp_path / "deep" / "residual_study.png").is_file()


def test_a_web_service(tmp_path: Path) -> None:
    """Pictures in, JSON out; what is not a picture, cut short or too large is refused with a sentence."""
    testing = pytest.importorskip("fastapi.testclient")
    model = model_with_header("classifier")
    save_model(tmp_path / "model.safetensors", model, model.header)
    serve = runpy.run_path(str(EXAMPLES / "serve.py"))
    assert lines_of_code("serve.py") <= 40
    client = testing.TestClient(serve["service"](str(tmp_path / "model.safetensors"), most_bytes=10_000))
    Image.effect_noise((60, 40), 50).convert("RGB").save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    answer = client.post("/predict", content=content)
    expected = tasks.load_predictor(tmp_path / "model.safetensors")(tmp_path / "a.png").to_dict()
    assert answer.status_code == 200 and answer.json() == expected
    for wrong, status, message in (
        (b"no picture", 400, "this is not a picture that can be read"),
        (content[:500], 400, "this is not a picture that can be read"),
        (b"", 400, "this is not a picture that can be read"),
        (content + bytes(10_000), 413, "has more than 10000 bytes; send a smaller one"),
    ):
        answer = client.post("/predict", content=wrong)
        assert answer.status_code == status and message in answer.json()["detail"]
