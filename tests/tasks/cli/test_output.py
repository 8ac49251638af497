"""What commands print: one object for programs, results alone, no colours, lines that fit."""

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.cli.output import Found, Output, folded, take_flags, to_plain
from tasks.cli.tables import Column, table
from tests.commands import command
from tests.scenes_on_disk import write_scenes
from tests.tiny_runs import IMAGES, NETWORK

SMALL = [
    *NETWORK,
    *IMAGES,
    "data.size=96",
    "preprocessing.short_side=96",
    "loader.batch_size=4",
    "pyramid.channels=16",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("output")


@pytest.fixture(scope="module")
def trained(place: Path) -> subprocess.CompletedProcess[str]:
    return command(
        "train", "task=detection", "trainer.max_steps=2", *SMALL, "run_dir=run", "--json", cwd=place
    )


def one_object(done: subprocess.CompletedProcess[str]) -> dict:
    assert done.stdout.count("\n") == 1, done.stdout
    return json.loads(done.stdout)


def test_train_prints_one_object(trained: subprocess.CompletedProcess[str], place: Path) -> None:
    assert trained.returncode == 0, trained.stderr
    found = one_object(trained)
    assert found["model_file"] == "run/model.safetensors" and (place / found["model_file"]).is_file()
    assert set(found["files"]) == {path.name for path in (place / "run").iterdir()}
    written = json.loads((place / "run" / "metrics.json").read_text())
    assert found["numbers"]["AP"] == written["AP"] and found["stopped_by"] is None
    assert "detection: faster_rcnn" in trained.stderr and "(AP) @[" in trained.stderr
    assert "(AP) @[" in (place / "run" / "log.txt").read_text()


@pytest.fixture(scope="module")
def data(place: Path) -> Path:
    write_scenes(place / "DIR")
    return place / "DIR"


CASES: dict[str, tuple[list[str], Callable[[dict], bool]]] = {
    "evaluate": (["checkpoint=run/model.safetensors"], lambda f: {"AP", "AP50"} <= f["numbers"].keys()),
    "predict": (
        ["checkpoint=run/model.safetensors", "source=DIR/val2017", "output=predicted"],
        lambda f: f["files"] == ["predictions.json"] and f["pictures"] > 0 and f["errors"] == [],
    ),
    "check-data": (["data.root=DIR"], lambda f: {"train", "val"} <= f["splits"].keys() and "findings" in f),
    "show-data": (
        ["data.root=DIR", "num_images=1"],
        lambda f: f["objects"] > 0 and "counts.png" in f["files"],
    ),
    "convert-data": (
        ["data.root=DIR", "to=coco", "out=new"],
        lambda f: f["read_with"].startswith("data=coco"),
    ),
    "compare": (["run", "run", "costs=false"], lambda f: f["costs"] == [] and f["words"]),
    "summarize": (["resnet18"], lambda f: f["networks"][0]["parameters"] == 11_176_512),
    "suspects": (
        ["checkpoint=run/model.safetensors"],
        lambda f: len(f["suspects"]) == sum(f["counts"].values()),
    ),
    "tune": (
        ["checkpoint=run/model.safetensors", "out=tuned.safetensors"],
        lambda f: len(f["thresholds"]) == 10 and f["file"] == "tuned.safetensors",
    ),
    "card": (["run", "licence=MIT"], lambda f: "README.md" in f["files"]),
    "report": (["run", "pictures=0"], lambda f: f["reports"] == ["run/report.json"]),
}


@pytest.mark.parametrize("name", CASES)
def test_every_command_prints_one_object(
    name: str, trained: subprocess.CompletedProcess[str], data: Path, place: Path
) -> None:
    words, holds = CASES[name]
    done = command(name.replace("-", "_"), *words, "--json", cwd=place)
    assert done.returncode == 0, done.stderr
    assert holds(one_object(done))


def test_quiet_prints_results_alone(
    trained: subprocess.CompletedProcess[str], data: Path, place: Path
) -> None:
    words = ["checkpoint=run/model.safetensors", "source=DIR/val2017"]
    done = command("predict", *words, "output=quiet", "--quiet", cwd=place)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"quiet: \d+ pictures and predictions.json\n", done.stdout) and done.stderr == ""
    done = command("evaluate", words[0], "run_dir=scores", "--quiet", cwd=place)
    assert done.stdout.startswith(" (AP) @[ IoU") or done.stdout.startswith(" Average Precision"), done.stdout
    assert "found" not in done.stdout and "scores: " in done.stdout and done.stderr == ""
    done = command("check_data", "data.root=DIR", "run_dir=checked", "--quiet", "--json", cwd=place)
    assert one_object(done)["folder"] == "checked" and done.stderr == ""


def test_progress_can_be_left_out_of_an_evaluation(
    trained: subprocess.CompletedProcess[str], place: Path
) -> None:
    words = ["checkpoint=run/model.safetensors", "trainer.enable_progress_bar=false", "run_dir=unshown"]
    done = command("evaluate", *words, cwd=place)
    assert done.returncode == 0, done.stderr


def test_a_file_of_costs_is_written_whole_or_not_at_all(
    trained: subprocess.CompletedProcess[str], place: Path
) -> None:
    (place / "costs.json").write_text("old")
    os.link(place / "costs.json", place / "kept.json")
    assert command("summarize", "resnet18", "json=costs.json", cwd=place).returncode == 0
    assert (place / "kept.json").read_text() == "old"  # another file took the name once it was whole
    assert len(json.loads((place / "costs.json").read_text())) == 1
    done = command("compare", "run", "run", "costs=false", "json=nowhere/x.json", cwd=place)
    assert done.returncode == 2 and "cannot write nowhere/x.json: No such file" in done.stderr


def test_an_error_prints_no_object(place: Path) -> None:
    done = command("evaluate", "checkpoint=nowhere.safetensors", "--json", cwd=place)
    assert (done.returncode, done.stdout) == (2, "") and done.stderr.startswith("error: ")


def test_a_sweep_prints_one_object(place: Path) -> None:
    words = ["task=detection", "trainer.max_steps=1,x", *SMALL, "hydra.sweep.dir=sweep"]
    done = command("train", "--multirun", *words, "--json", cwd=place)
    assert done.returncode == 1
    runs = one_object(done)["runs"]
    assert [run["status"] for run in runs] == ["done", "failed (ValueError)"] and runs[0]["metrics"]


def test_json_of_a_file_is_a_setting() -> None:
    assert take_flags(["a", "--json", "--quiet"]) == (["a"], Output(json=True, quiet=True))
    assert take_flags(["--json=a.json", "json=b.json"]) == (["--json=a.json", "json=b.json"], Output())
    with pytest.raises(ValueError, match=r"give json=costs\.json for a file"):
        take_flags(["a", "--json", "costs.json"])


def test_plain_values() -> None:
    import numpy as np

    values = {
        "nan": float("nan"),
        "array": np.array([1.5, np.inf]),
        "path": Path("a/b"),
        "pair": (np.int64(2), None),
    }
    assert json.loads(Found(values).to_json()) == {
        "nan": None, "array": [1.5, None], "path": "a/b", "pair": [2, None],
    }  # fmt: skip
    assert to_plain({1: True}) == {"1": True}


def in_a_terminal(words: list[object], cwd: Path, **environment: str) -> str:
    """What a command prints on a terminal."""
    main, other = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", "from tasks.cli.main import main; main()", *map(str, words)],
        cwd=cwd, stdout=other, stderr=other, stdin=other,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "TERM": "xterm", **environment},
    ) as process:  # fmt: skip
        os.close(other)
        shown = b""
        while True:
            try:
                shown += os.read(main, 65536)
            except OSError:  # the last program has closed it
                break
        os.close(main)
    assert process.returncode == 0, shown.decode()
    return shown.decode()


COLOUR = re.compile(r"\x1b\[(?:[0-9;]*;)?(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;[0-9;]*)?m")


@pytest.mark.slow
def test_no_color_and_what_a_terminal_leaves_in_the_log(place: Path) -> None:
    words = ["train", "task=detection", "trainer.max_steps=8", *SMALL]
    shown = in_a_terminal([*words, "run_dir=coloured"], place, COLUMNS="80")
    assert COLOUR.search(shown) and "loss" in shown
    plain = in_a_terminal([*words, "run_dir=plain"], place, COLUMNS="80", NO_COLOR="1")
    assert not COLOUR.search(plain)
    visible = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", plain).replace("\r", "\n")
    assert max(map(len, visible.splitlines())) <= 80
    log = (place / "plain" / "log.txt").read_text()
    assert "\x1b" not in log and "\r" not in log and "step 8: AP 0." in log
    assert max(map(len, log.splitlines())) > 80  # a file's lines are as long as sentences are


def test_long_sentences_are_folded_and_tables_are_not() -> None:
    assert folded("one two three four five six seven", 20) == "one two three four\n  five six seven"
    line = "name        1.0        2.0        3.0"
    assert folded(line, 20) == line
    assert folded("\x1b[K" + line, 20) == "\x1b[K" + line


def test_table(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("a", "1", "short"), ("bcd", "22", "this one is said in rather many words")]
    columns = ["name", Column("num-\nber", right=True), "words"]
    wide = (
        "      num-\nname   ber  words\na        1  short\nbcd     22  this one is said in rather many words"
    )
    assert table(columns, rows) == wide
    monkeypatch.setattr("tasks.cli.tables.terminal_width", lambda: 30)
    assert table(columns, rows).splitlines()[3:] == [
        "bcd     22  this one is said", "            in rather many", "            words",
    ]  # fmt: skip


def test_help_names_what_is_printed() -> None:
    text = command("train", "--help").stdout
    assert "--quiet" in text and "--json" in text and "NO_COLOR" in text
