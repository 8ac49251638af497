"""Runs over many pictures: killed and gone on with, shared by ranks, each picture in the results exactly once."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tasks
from tasks.cli.bar import Bar
from tasks.cli.compose import compose
from tasks.cli.predict import predict
from tasks.inference.journal import Journal
from tasks.inference.run import FEW
from tests.commands import command
from tests.tasks.inference.small_files import write_pictures

ROOT = Path(__file__).parents[3]
OPTIONS = ["device=cpu", "precision=32-true", "score_threshold=0.1"]


def run(checkpoint: Path, source: object, output: Path, *words: str) -> int:
    return predict(
        compose(
            "predict", [f"checkpoint={checkpoint}", f"source={source}", f"output={output}", *OPTIONS, *words]
        )
    ).status


def entries(output: Path) -> list[dict[str, Any]]:
    report = json.loads((output / "predictions.json").read_text())
    return [*report["pictures"], *report["unreadable"]]


class Killed(BaseException):
    pass


def killed_after(count: int, monkeypatch, *words: Any) -> None:
    """A run that ends without any farewell once so many pictures are done."""
    done = 0

    def add(self: Bar, more: int) -> None:
        nonlocal done
        done += more
        if done >= count:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "add", add)
        with pytest.raises(Killed):
            run(*words)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder / "a", 30)
    write_pictures(folder / "b" / "c", 10)
    (folder / "b" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing")
    return folder


def test_a_killed_run_goes_on_where_it_was(
    files, pictures: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "out"
    killed_after(16, monkeypatch, files["detection"], pictures, out)
    assert not (out / "predictions.json").exists()
    shards = sorted((out / ".unfinished").glob("0*.jsonl"))
    done = sum(path.read_bytes().count(b"\n") for path in shards)
    assert 16 <= done < 41
    for path in shards:
        with open(path, "ab") as file:
            file.write(b'{"name": "half a li')  # as a kill leaves it
    predicted: list[int] = []
    call = tasks.inference.predictor.Predictor.__call__  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "tasks.inference.predictor.Predictor.__call__",
        lambda self, p: (predicted.append(len(p)), call(self, p))[1],
    )
    capsys.readouterr()
    assert run(files["detection"], pictures, out) == 1
    said = capsys.readouterr()
    assert f"goes on with the run in {out / '.unfinished'}: {done} of 41 are done" in said.out
    assert "broken.png" in said.err
    assert sum(predicted) == 41 - done - 1
    found = entries(out)
    assert Counter(entry["file"] for entry in found).most_common(1)[0][1] == 1 and len(found) == 41
    assert not (out / ".unfinished").exists()
    assert run(files["detection"], pictures, tmp_path / "whole") == 1
    assert json.loads((out / "predictions.json").read_text()) == json.loads(
        (tmp_path / "whole" / "predictions.json").read_text()
    )
    drawn = {path.relative_to(out) for path in out.rglob("*.jpg")}
    assert drawn == {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*.jpg")}
    assert len(drawn) == 40 and Path("b/c/000001.jpg") in drawn


def test_other_settings_do_not_go_on(files, pictures: Path, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    killed_after(8, monkeypatch, files["detection"], pictures, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for word, name in (
        ("masks=false", None),
        ("draw=false", "draw"),
        ("every=2", "every"),
        ("format=csv", "format"),
    ):
        if name is not None:
            with pytest.raises(
                ValueError, match=f"holds an unfinished run with {name}=.* and this one has {name}="
            ):
                run(files["detection"], pictures, out, word)
    with pytest.raises(ValueError, match="unfinished run with checkpoint="):
        run(files["classification"], pictures, out)
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    assert run(files["detection"], pictures, out, "batch_size=3") == 1  # which changes nothing


def test_one_run_at_a_time(files, pictures: Path, tmp_path: Path) -> None:
    with (
        Journal(tmp_path / "out").locked(),
        pytest.raises(ValueError, match="another run is writing to output="),
    ):
        run(files["detection"], pictures, tmp_path / "out")


def test_shards_cover_every_picture_once(tmp_path: Path) -> None:
    from tasks.inference.sources import Picture

    pictures = [Picture(f"{i}.png", str(i), f"{i}.png") for i in range(1003)]
    for ranks in (1, 2, 3, 7):
        journal = Journal(tmp_path / str(ranks))
        assert journal.begin(iter(pictures), {}, ranks) is False
        journal.open()
        shares = [[p for s in journal.shards_of(r, ranks) for p in journal.pictures(s)] for r in range(ranks)]
        assert sorted(p for share in shares for p in share) == sorted(pictures)
        assert max(map(len, shares)) - min(map(len, shares)) <= journal.shard_size
    journal = Journal(tmp_path / "none")
    journal.begin(iter([]), {}, 1)
    journal.open()
    assert journal.num_shards == 0 and list(journal.records()) == []


def test_records_are_never_short(tmp_path: Path) -> None:
    from tasks.inference.sources import Picture

    journal = Journal(tmp_path)
    journal.begin(iter([Picture("a", "a", "a"), Picture("b", "b", "b")]), {}, 1)
    journal.open()
    with pytest.raises(ValueError, match="0 of 1 pictures of shard 0 are in .*run the same command again"):
        list(journal.records())


@pytest.mark.parametrize("words", [["every=0"], ["every=true"], ["draw=2"]])
def test_settings_that_are_none(words: list[str], files, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must be (a whole number|true or false)"):
        run(files["detection"], pictures, tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_sources_are_never_written_over(files, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 2)
    before = {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()}
    with pytest.raises(ValueError, match="is the folder of the source"):
        run(files["detection"], tmp_path / "in", tmp_path / "in")
    assert {path.name: path.read_bytes() for path in (tmp_path / "in").iterdir()} == before
    photo = tmp_path / "photo.jpg"
    photo.write_bytes((tmp_path / "in" / "000001.png").read_bytes())
    before_photo = photo.read_bytes()
    with pytest.raises(ValueError, match="would be written over .*photo.jpg, a picture of the source"):
        run(files["detection"], photo, tmp_path)
    assert photo.read_bytes() == before_photo
    assert run(files["detection"], tmp_path / "in", tmp_path / "in", "draw=false") == 0
    assert {path.name for path in (tmp_path / "in").iterdir()} == {*before, "predictions.json"}


def test_every_second_picture_without_drawing(files, pictures: Path, tmp_path: Path, capsys) -> None:
    run(files["detection"], pictures / "a", tmp_path / "out", "every=2", "draw=false")
    assert [Path(entry["file"]).name for entry in entries(tmp_path / "out")] == [
        f"{i:06d}.png" for i in range(1, 31, 2)
    ]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"predictions.json"}
    said = capsys.readouterr().out
    assert said.count(".png: ") == 15 <= FEW
    assert "15 in 0:00:0" in said and " a second\n" in said


def test_a_list_that_turns_out_to_be_none_leaves_nothing(files, tmp_path: Path) -> None:
    write_pictures(tmp_path, 1)
    (tmp_path / "urls.txt").write_text("000001.png\nhttp://127.0.0.1/a.png\n")
    with pytest.raises(ValueError, match="lists addresses"):
        run(files["detection"], tmp_path / "urls.txt", tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Site(http.server.BaseHTTPRequestHandler):
    """Serves pictures, and what no picture should be."""

    content = b""

    def do_GET(self) -> None:
        if self.path == "/away.png":
            self.send_response(302)
            self.send_header("Location", "file:///etc/hostname")
            self.end_headers()
        elif self.path.startswith("/large"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * 500_000)
        elif self.path.startswith("/good"):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self.content)
        else:
            self.send_error(404)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    (path,) = write_pictures(tmp_path / "served", 1)
    Site.content = path.read_bytes()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_list_of_addresses(files, site: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "urls.txt").write_text(
        "\n".join(
            f"{site}/{name}" for name in ("good.png", "good.png?2", "gone.png", "away.png", "large.png")
        )
    )
    assert (
        run(files["detection"], tmp_path / "urls.txt", tmp_path / "out", "download=true", "max_pixels=10000")
        == 1
    )
    good, again, *bad = entries(tmp_path / "out")
    assert good["file"] == f"{site}/good.png" and good["objects"] == again["objects"] and good["objects"]
    local = tasks.load_predictor(files["detection"], device="cpu", precision="32-true", score_threshold=0.1)
    np.testing.assert_array_equal(
        [o["box"] for o in good["objects"]], local(tmp_path / "served/000001.png").boxes
    )
    for entry, why in zip(bad, ("Not Found", "is not allowed", "has more than the 80000 bytes"), strict=True):
        assert why in entry["error"] and entry["file"] in entry["error"]
    assert {path.name for path in (tmp_path / "out").glob("*.jpg")} == {"good.jpg", "good-2.jpg"}


def test_an_interrupted_run_says_how_to_go_on(
    files, pictures: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def interrupt(self: Bar, more: int) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "add", interrupt)
        assert run(files["detection"], pictures, tmp_path / "out") == 130
    assert f"stopped; the same command with output={tmp_path / 'out'} goes on" in capsys.readouterr().out
    assert run(files["detection"], pictures, tmp_path / "out") == 1
    assert len(entries(tmp_path / "out")) == 41


def test_several_processes_want_a_folder_and_no_video(
    files, pictures: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = [f"checkpoint={files['detection']}", *OPTIONS]
    with pytest.raises(ValueError, match=r"several processes were started .*give output=DIR"):
        predict(compose("predict", [*words, f"source={pictures}"]))
    with pytest.raises(ValueError, match="is a video, .*run one process for each video"):
        predict(compose("predict", [*words, "source=rtsp://127.0.0.1/x", f"output={tmp_path / 'out'}"]))


def torchrun(port: int, *words: object) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        f"--master-port={port}",
        str(ROOT / "tools/predict.py"),
    ]
    return subprocess.Popen(
        [sys.executable, *launch, *map(str, words), *OPTIONS], env=environment, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and those that they have."""
    children = [
        int(child)
        for path in Path(f"/proc/{pid}/task").glob("*/children")
        for child in path.read_text().split()
    ]
    return children + [pid for child in children for pid in descendants(child)]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to find processes")
def test_two_ranks_with_a_kill(files, tmp_path: Path) -> None:
    write_pictures(tmp_path / "in", 120)
    out = tmp_path / "out"
    words = (
        f"checkpoint={files['instance_segmentation']}",
        f"source={tmp_path / 'in'}",
        f"output={out}",
        "format=jsonl",
    )
    process = torchrun(29611, *words)
    deadline = time.monotonic() + 120
    lines = 0
    while lines < 30 and time.monotonic() < deadline:
        time.sleep(0.02)
        lines = sum(path.read_bytes().count(b"\n") for path in out.glob(".unfinished/0*.jsonl"))
    for pid in [process.pid, *descendants(process.pid)]:  # torchrun's workers outlive it
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    lines = sum(path.read_bytes().count(b"\n") for path in out.glob(".unfinished/0*.jsonl"))
    assert 30 <= lines < 120
    again = torchrun(29612, *words)
    printed, errors = again.communicate(timeout=240)
    assert again.returncode == 0, errors
    assert f"{lines} of 120 are done" in printed and printed.count("120 pictures and predictions.jsonl") == 1
    found = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [Path(entry["file"]).name for entry in found] == [f"{i:06d}.png" for i in range(1, 121)]
    assert len(list(out.glob("*.jpg"))) == 120 and not (out / ".unfinished").exists()


def test_the_bar(monkeypatch) -> None:
    bar = Bar()
    bar.start(2000)
    bar._done = 500
    assert bar.text(10.0) == "500 of 2,000, 50.0 a second, 0:00:30 left"
    bar._total = None
    assert bar.text(10.0) == "500 done, 50.0 a second"


def test_help_names_what_is_written() -> None:
    said = command("predict", "--help").stdout
    for key in ("format=null", "draw=true", "masks=false", "every=1", "download=false"):
        assert key in said
