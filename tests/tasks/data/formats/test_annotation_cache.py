"""Annotations that were parsed once come from flat files."""

import json
import logging
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.data.annotations.objects import Annotations
from tasks.data.formats import cache as annotation_cache
from tasks.data.formats import object_files
from tasks.data.formats.coco import CocoData
from tasks.data.quality import policy as on_invalid
from tests.tasks.data.coco_on_disk import train_content, write_json

FILE = "annotations/instances_train2017.json"


@pytest.fixture(autouse=True)
def small_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST_FILE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("caches")))


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are parsed and checked from now on."""
    read, names = object_files.usable_annotations, []

    def noted(source: CocoData, name: str, *options: Any) -> Annotations:
        names.append(name)
        return read(source, name, *options)

    monkeypatch.setattr(object_files, "usable_annotations", noted)
    return names


def assert_equal(a: Annotations, b: Annotations) -> None:
    for field in fields(Annotations):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if isinstance(x, np.ndarray):
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
            assert type(y) is np.ndarray
    assert a.to_coco() == b.to_coco()


@pytest.mark.parametrize("masks", [False, True])
def test_a_second_reading_parses_nothing(coco_root: Path, parsed: list[str], masks: bool) -> None:
    first, second = (CocoData(coco_root, masks=masks).split("train") for _ in range(2))
    assert parsed == ["train"]
    content = on_invalid.usable_annotations(CocoData(coco_root, masks=masks), "train", "error", "headers")
    for split in (first, second):
        assert_equal(content, split.annotations)
        assert not split.annotations.boxes.flags.writeable
        target = split.annotations.target(0)
        target.boxes[:] = 0  # a target is the caller's own
        assert target.boxes.flags.writeable
    assert len(list((coco_root / "annotations/.vertebra").glob("instances_train2017.json-*"))) == 1


def test_what_the_result_depends_on_is_kept_apart(coco_root: Path, parsed: list[str]) -> None:
    kinds: list[dict[str, Any]] = [
        {},
        {"masks": True},
        {"on_invalid": "drop"},
        {"check_images": "none"},
        {"max_images": 2},
    ]
    for _ in range(2):
        lengths = [len(CocoData(coco_root, **options).split("train")) for options in kinds]
        assert lengths == [4, 4, 4, 4, 2]
    assert parsed == ["train"] * 5


def test_a_data_set_that_splits_itself(coco_root: Path, parsed: list[str]) -> None:
    options: dict[str, Any] = {"split": "0.5/0.5", "val_annotations": "annotations/nowhere.json"}
    for _ in range(2):
        source = CocoData(coco_root, **options)
        parts = [source.split(name).annotations.image_ids.tolist() for name in ("train", "val")]
        assert sorted(parts[0] + parts[1]) == [5, 12, 700, 900]
    assert parsed == ["train", "val"]
    CocoData(coco_root, **{**options, "split": "0.75/0.25"}).split("train")
    assert len(parsed) == 3


def test_files_that_went_away_are_missed(coco_root: Path, parsed: list[str]) -> None:
    CocoData(coco_root).split("train")
    (coco_root / "train2017/deeper/grey.png").unlink()
    with pytest.raises(ValueError, match="deeper/grey.png"):
        CocoData(coco_root).split("train")
    assert len(CocoData(coco_root, on_invalid="drop").split("train")) == 3
    assert len(CocoData(coco_root, on_invalid="drop").split("train")) == 3
    assert parsed == ["train"] * 3


def test_a_changed_file_is_parsed_again(coco_root: Path, parsed: list[str]) -> None:
    CocoData(coco_root).split("train")
    content = train_content()
    content["annotations"][0]["bbox"] = [1, 2, 3, 4]
    write_json(coco_root / FILE, content)
    assert [1, 2, 3, 4] in CocoData(coco_root).split("train").annotations.boxes.tolist()
    os.utime(coco_root / FILE, ns=(1, 1))
    CocoData(coco_root).split("train")
    CocoData(coco_root).split("train")
    assert len(parsed) == 3
    os.utime(
        coco_root / "annotations/instances_val2017.json", ns=(1, 1)
    )  # whose images must be none of these
    CocoData(coco_root).split("train")
    assert len(parsed) == 4


def test_another_version_or_a_damaged_cache_is_read_anew(
    coco_root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = CocoData(coco_root).split("train").annotations
    (place,) = (coco_root / "annotations/.vertebra").iterdir()
    (place / "boxes.npy").unlink()  # what maps the old file keeps it
    (place / "boxes.npy").write_bytes(b"\x93NUMPY")
    assert_equal(expected, CocoData(coco_root).split("train").annotations)
    (place / "labels.npy").unlink()
    assert_equal(expected, CocoData(coco_root).split("train").annotations)
    (place / "facts.json").write_text("[]")
    assert_equal(expected, CocoData(coco_root).split("train").annotations)
    monkeypatch.setattr(annotation_cache, "version", lambda: "another")
    assert_equal(expected, CocoData(coco_root).split("train").annotations)
    assert len(parsed) == 5
    assert json.loads((place / "facts.json").read_text())["version"] == "another"


def test_without_objects(coco_root: Path, parsed: list[str]) -> None:
    write_json(coco_root / FILE, {**train_content(), "annotations": []})
    for _ in range(2):
        split = CocoData(coco_root, masks=True).split("train")
        assert split.annotations.boxes.shape == (0, 4)
        assert split.annotations.target(2).boxes.shape == (0, 4)
    assert len(parsed) == 1


def test_what_was_changed_is_told_every_time(
    coco_root: Path, parsed: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    content = train_content()
    content["annotations"][0]["bbox"] = [50, 30, 20, 20]
    write_json(coco_root / FILE, content)
    told = []
    for _ in range(2):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            CocoData(coco_root, on_invalid="fix").split("train")
        told.append([(r.name, r.levelno, r.getMessage()) for r in caplog.records])
    assert told[0] == told[1]
    assert "data.on_invalid=fix fixed 1" in told[0][0][2]
    assert len(parsed) == 1
    with pytest.raises(ValueError, match="1 of 4 annotations cannot be used"):
        CocoData(coco_root, on_invalid="error").split("train")


def test_where_the_data_cannot_be_written_to(
    coco_root: Path, parsed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (coco_root / "annotations/.vertebra").write_text("a file stands where the folder would be")
    for _ in range(2):
        split = CocoData(coco_root).split("train")
    assert len(parsed) == 1
    assert not split.annotations.boxes.flags.writeable
    home = Path(os.environ["XDG_CACHE_HOME"])
    assert len(list(home.rglob("facts.json"))) == 1
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    for _ in range(2):
        assert len(CocoData(coco_root).split("train")) == 4
    assert len(parsed) == 3


def test_small_files_are_not_cached(coco_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotation_cache, "SMALLEST_FILE", 1_000_000)
    CocoData(coco_root).split("train")
    assert not (coco_root / "annotations/.vertebra").exists()


def test_what_was_changed_is_printed_the_first_time_too(
    coco_root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content = train_content()
    content["annotations"][0]["bbox"][2] = 0
    write_json(coco_root / FILE, content)
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # as in a program that sets up no logging
    printed = []
    for _ in range(2):
        assert len(CocoData(coco_root, on_invalid="drop").split("train").annotations.ids) == 3
        printed.append(capsys.readouterr().err)
    assert printed[0] == printed[1]
    assert "data.on_invalid=drop fixed 0 and dropped 1 of 4 annotations" in printed[0]
