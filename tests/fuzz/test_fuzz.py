"""A short run of the fuzz tests, always the same; `python -m tests.fuzz --minutes 10` is the long one."""

from itertools import islice
from pathlib import Path

import pytest

from tests.fuzz.inputs import cases
from tests.fuzz.watch import watched


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("model file", 60),
        ("checkpoint", 35),
        ("run", 5),
        ("image", 60),
        ("archive", 40),
        ("data set", 60),
        ("command line", 40),
    ],
)
def test_hostile_inputs_keep_every_promise(kind: str, count: int, tmp_path: Path) -> None:
    wrong = []
    for seed, case, folder in islice(cases(kind, tmp_path), count):
        if problem := watched(case.call, folder):
            wrong.append(f"{seed} {case.name}: {problem}")
    assert not wrong, "\n".join(wrong)
    assert not (tmp_path / "ran").exists()


def test_the_watch_sees_what_it_looks_for(tmp_path: Path, monkeypatch) -> None:
    """Each kind of failure, made on purpose."""
    import os
    import subprocess
    import urllib.request

    inside = tmp_path / "case"
    inside.mkdir()
    (tmp_path / "secret").touch()

    def raises() -> None:
        raise KeyError("x")

    def asks() -> None:
        try:
            urllib.request.urlopen("http://127.0.0.1:9/x", timeout=1)
        except OSError:
            raise ValueError("no network") from None

    assert watched(raises, inside).startswith("KeyError")
    assert "urllib.Request" in watched(asks, inside)
    assert "reads" in watched((tmp_path / "secret").read_text, inside)
    assert "writes" in watched(lambda: (tmp_path / "new").write_text("x"), inside)
    assert "os.remove" in watched(lambda: os.unlink(tmp_path / "new"), inside)
    assert "subprocess" in watched(lambda: subprocess.run(["true"], check=True), inside)
    assert watched(lambda: (inside / "x").write_text("x"), inside) == ""
    monkeypatch.setattr("tests.fuzz.watch.MOST_MEMORY", 64 << 20)
    assert "GB" in watched(lambda: bytearray(b"x") * (1 << 30), inside)
