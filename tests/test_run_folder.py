"""What a run folder records of how it came about, and that a run needs no network."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from tasks.data.formats.digits import DigitsData
from tasks.harness.environment import fingerprint, git_state
from tests.tiny_runs import TINY

ROOT = Path(__file__).parents[1]
# Imported by every Python that has its folder on the path, workers included.
BLOCK = """
import socket
def refuse(*arguments, **options):
    raise OSError("the network was asked for")
class Refused(socket.socket):
    def connect(self, address):
        if self.family != socket.AF_UNIX:
            refuse()
        return super().connect(address)
    connect_ex = connect
socket.socket = Refused
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


def test_a_run_without_network_can_be_repeated_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "block").mkdir()
    (tmp_path / "block" / "sitecustomize.py").write_text(BLOCK)
    environment = {
        **os.environ,
        "PYTHONPATH": f"{tmp_path / 'block'}{os.pathsep}{ROOT}",
        "OMP_NUM_THREADS": "1",
    }
    blocked = subprocess.run(
        [sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 9))"],
        env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert "the network was asked for" in blocked.stderr
    words = [*TINY["detection"], "loader.num_workers=1", "trainer.max_steps=2", "run_dir=run"]
    command = [sys.executable, str(ROOT / "tools/train.py"), *words]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr

    around = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert around["overrides"] == words
    assert shlex.split(around["command"]) == command
    assert around["folder"] == str(tmp_path)
    assert around["packages"]["torch"] and around["packages"]["lightning"]
    source = DigitsData(num_train=40, num_val=4, num_test=1, size=96)
    assert around["data"]["train"] == {
        "images": 40,
        "fingerprint": fingerprint(source.split("train").annotations),
    }
    assert around["git"] == git_state(ROOT)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert log and log in result.stdout


def test_fingerprint_sees_every_change() -> None:
    annotations = DigitsData(num_train=4).split("train").annotations
    first = fingerprint(annotations)
    assert first == fingerprint(replace(annotations, boxes=annotations.boxes.copy()))
    boxes = annotations.boxes.copy()
    boxes[0, 0] += 1e-9
    assert fingerprint(replace(annotations, boxes=boxes)) != first
    assert fingerprint(replace(annotations, class_names=[*annotations.class_names[:-1], "x"])) != first
    assert fingerprint(replace(annotations, image_ids=annotations.image_ids[::-1].astype(np.int64))) != first


def test_git_state(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    for words in (
        ["init", "-q"],
        ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q", "--allow-empty", "-m", "x"],
    ):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    state = git_state(tmp_path.resolve())
    assert state is not None and len(state["commit"]) == 40 and state["changed"] == []
    (tmp_path / "new.py").touch()
    assert git_state(tmp_path.resolve())["changed"] == ["?? new.py"]
