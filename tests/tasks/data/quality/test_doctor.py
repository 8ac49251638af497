"""The doctor names every issue and nothing else; what the loaders do about it agrees with its report."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.cli.check_data import check_data, summary, to_json
from tasks.cli.compose import compose
from tasks.data.formats.coco import CocoData
from tasks.data.formats.voc import VocData
from tasks.data.quality.issues import ISSUES, IssueReport
from tasks.data.quality.policy import BadData
from tasks.data.quality.report import Report, examine
from tasks.preprocessing import Preprocessing
from tests.tasks.data.defects_on_disk import FIXED, IN_ANNOTATIONS, OPTIONS, Place, texture, write_defects

ROOT = Path(__file__).parents[4]
PREPROCESSING = Preprocessing(short_side=64, max_size=96)


def place(finding: IssueReport) -> Place:
    return (
        finding.issue.name, finding.split, finding.image_id, finding.annotation_id, finding.category,
    )  # type: ignore[return-value]  # fmt: skip


@pytest.fixture(scope="module")
def defects(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[Place]]:
    root = tmp_path_factory.mktemp("defects")
    return root, write_defects(root)


@pytest.fixture(scope="module")
def report(defects: tuple[Path, set[Place]]) -> Report:
    return examine(CocoData(defects[0], **OPTIONS), PREPROCESSING)


def errors(report: Report) -> list[IssueReport]:
    return [finding for finding in report.findings if finding.issue.severity == "error"]


def test_every_planted_defect_is_named_and_nothing_else(
    defects: tuple[Path, set[Place]], report: Report
) -> None:
    found = [place(finding) for finding in report.findings]
    assert len(found) == len(set(found)) == 28
    assert set(found) == defects[1]
    assert len({finding.issue for finding in report.findings}) == 28


def test_the_loader_stops_with_the_same_list(defects: tuple[Path, set[Place]], report: Report) -> None:
    with pytest.raises(BadData, match=r"7 of 33 images and 16 of 25 annotations cannot be used") as caught:
        CocoData(defects[0], **OPTIONS, masks=True).split("train")
    assert set(map(place, caught.value.findings)) == set(map(place, errors(report)))


@pytest.mark.parametrize("on_invalid", ["fix", "drop"])
def test_what_the_loader_changes_agrees_with_the_report(
    defects: tuple[Path, set[Place]], report: Report, on_invalid: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        source = CocoData(defects[0], **OPTIONS, masks=True, on_invalid=on_invalid)
        annotations = source.split("train").annotations
    of_annotations = [f for f in errors(report) if f.annotation_id is not None]
    images = [f for f in errors(report) if f.annotation_id is None]
    fixed = [f for f in of_annotations if f.remedy == "fixed"] if on_invalid == "fix" else []
    assert {f.annotation_id for f in fixed} == (FIXED if on_invalid == "fix" else set())
    (line,) = (r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert f"fixed {len(fixed)} and dropped {len(of_annotations) - len(fixed)} of " in line
    assert f"and dropped {len(images)} of 33 images" in line
    lines = [r.getMessage() for r in caplog.records if r.levelno == logging.INFO]
    assert len(lines) == len(errors(report))
    for finding in errors(report):
        verb = "fixed" if finding in fixed else "dropped"
        assert any(line.startswith(f"{verb} {finding}") for line in lines), finding
    dropped = {f.annotation_id for f in of_annotations if f not in fixed} - {103}  # the first 103 is good
    kept = set(annotations.ids.tolist())
    assert not kept & dropped
    assert kept >= {300, 116, 117, 103, *(f.annotation_id for f in fixed if f.annotation_id != 103)}
    assert len(kept) == len(annotations.ids)
    if on_invalid == "fix":
        boxes = dict(zip(annotations.ids.tolist(), annotations.boxes.tolist(), strict=True))
        assert boxes[106] == [50, 20, 40, 40]
        assert boxes[107] == [20, 20, 40, 30]
        assert boxes[108] == [24, 16, 48, 32]
        assert boxes[109] == [0, 10, 25, 20]
        assert boxes[110] == [70, 10, 26, 20]
        assert boxes[114] == [10, 20, 40, 30]
        assert 118 not in boxes and max(boxes) > 305  # the second 103 has a new id
        row = annotations.ids.tolist().index(113)
        assert annotations.segmentation(row) == [[20, 20, 50, 20, 50, 50]]
    again = source.split("val")
    assert len(again) == 3


def test_the_report_as_plain_values(report: Report) -> None:
    content = json.loads(json.dumps(to_json(report), allow_nan=False))
    assert content["splits"]["val"] == {"images": 3, "annotations": 3, "categories": 4}
    assert sum(row["count"] for row in content["summary"]) == len(content["findings"]) == 28
    (nan,) = (f for f in content["findings"] if f["annotation_id"] == 104)
    assert nan["box"] == [10, 10, None, 20]
    assert nan["remedy"] == "dropped"
    assert {row["issue"]: row["fixed"] for row in summary(report)}["box outside image"] == 1


def words(root: Path, out: Path) -> list[str]:
    options = [f"data.{key}={value}" for key, value in OPTIONS.items()]
    size = ["preprocessing.short_side=64", "preprocessing.max_size=96"]
    return ["data=coco", f"data.root={root}", *options, *size, f"run_dir={out}"]


def test_the_command(defects: tuple[Path, set[Place]], tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/check_data.py"), *words(defects[0], tmp_path / "out")]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "23 errors, 5 warnings" in result.stdout
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert len(content["findings"]) == 28
    page = (tmp_path / "out/report.html").read_text()
    assert "http" not in page  # nothing from elsewhere
    assert page.count("data:image/jpeg;base64,") >= 20
    for annotation_id, (issue, _) in IN_ANNOTATIONS.items():
        assert re.search(rf"<li>train: annotation {annotation_id} \(image", page), issue


def write_sound(root: Path) -> None:
    for index, split in enumerate(("train", "val")):
        (root / split).mkdir()
        Image.fromarray(texture(index)).save(root / split / "a.png")
        content = {
            "images": [{"id": 1, "file_name": "a.png", "height": 64, "width": 96}],
            "annotations": [
                {
                    "id": 1,
                    "image_id": 1,
                    "category_id": 1,
                    "bbox": [0, 0, 96, 64],
                    "area": 6144,
                    "iscrowd": 0,
                },
                {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1, "iscrowd": 1},
            ],
            "categories": [{"id": 1, "name": "cat"}],
        }
        (root / f"{split}.json").write_text(json.dumps(content))


def test_a_sound_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sound(tmp_path)
    assert check_data(compose("check_data", words(tmp_path, tmp_path / "out"))).status == 0
    assert "no issue found" in capsys.readouterr().out
    assert "No issue found" in (tmp_path / "out/report.html").read_text()


def test_reports_of_one_second_have_folders_of_their_own(tmp_path: Path, monkeypatch, capsys) -> None:
    write_sound(tmp_path)
    monkeypatch.setattr("time.strftime", lambda *_: "20260101-000000")
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        check_data(compose("check_data", ["data=coco", f"data.root={tmp_path}"]))
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"check_data-20260101-000000", "check_data-20260101-000000-2"}


def test_warnings_alone_are_no_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_sound(tmp_path)
    content = json.loads((tmp_path / "val.json").read_text())
    for split in ("train", "val"):
        content["categories"] = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
        (tmp_path / f"{split}.json").write_text(json.dumps(content))
    assert check_data(compose("check_data", words(tmp_path, tmp_path / "out"))).status == 0
    printed = capsys.readouterr().out
    assert "unused category" in printed and "0 errors, 1 warning" in printed


def test_what_cannot_be_examined(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="DigitsData has no files of objects .* be checked; give data=coco"):
        check_data(compose("check_data", [f"run_dir={tmp_path / 'out'}"]))
    assert not list(tmp_path.iterdir())


def test_splits_that_do_not_fit_together(tmp_path: Path) -> None:
    write_sound(tmp_path)
    content = json.loads((tmp_path / "val.json").read_text())
    content["categories"][0]["name"] = "dog"
    (tmp_path / "val.json").write_text(json.dumps(content))
    found = examine(CocoData(tmp_path, **OPTIONS), PREPROCESSING).findings
    assert [(f.issue.name, f.subject, f.split) for f in found[:2]] == [
        ("categories differ", "category 1 'cat'", "train"),
        ("categories differ", "category 1 'dog'", "val"),
    ]
    (tmp_path / "val.json").write_text("{")
    found = examine(CocoData(tmp_path, **OPTIONS), PREPROCESSING).findings
    assert [(f.issue.name, f.split) for f in found] == [("split unreadable", "val")]
    assert "is not JSON" in found[0].detail


def test_a_file_written_in_corners_throughout(tmp_path: Path) -> None:
    """Most of its boxes would pass as x, y, width, height one by one."""
    write_sound(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    boxes = [[2, 3, 20, 30], [5, 5, 40, 20], [50, 20, 90, 60]]
    content["annotations"] = [
        {
            "id": i,
            "image_id": 1,
            "category_id": 1,
            "bbox": b,
            "area": (b[2] - b[0]) * (b[3] - b[1]),
            "iscrowd": 0,
        }
        for i, b in enumerate(boxes, start=1)
    ]
    (tmp_path / "train.json").write_text(json.dumps(content))
    source = CocoData(tmp_path, **OPTIONS, on_invalid="fix")
    assert [f.issue.name for f in examine(source, PREPROCESSING).findings] == ["corners for extents"] * 3
    found = source.split("train").annotations.boxes.tolist()
    assert found == [[2, 3, 18, 27], [5, 5, 35, 15], [50, 20, 40, 40]]


def test_voc_names_files_and_classes(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / folder).mkdir(parents=True)
    corners = {"a": (5, 5, 5, 9), "b": (9, 5, 3, 8), "c": (1, 1, 97, 60), "d": (0.25, 0.25, 0.75, 0.5)}
    for index, (name, box) in enumerate(corners.items()):
        Image.fromarray(texture(index)).save(tmp_path / f"JPEGImages/{name}.png")
        tags = "".join(f"<{t}>{v}</{t}>" for t, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        (tmp_path / f"Annotations/{name}.xml").write_text(
            f"<annotation><object><name>cat</name><bndbox>{tags}</bndbox></object></annotation>"
        )
    Image.fromarray(texture(9)).save(tmp_path / "JPEGImages/e.png")
    (tmp_path / "ImageSets/Main/train.txt").write_text("a\nb\nc\nd\ne\n")
    source = VocData(tmp_path, on_invalid="fix", val=None)
    found = examine(source, PREPROCESSING).findings
    assert [(f.issue.name, f.file_name, f.category) for f in found] == [
        ("annotation unreadable", "e.png", None),
        ("degenerate box", "a.png", "cat"),
        ("wrong corner order", "b.png", "cat"),
        ("normalised box", "d.png", "cat"),
    ]
    boxes = source.split("train").annotations.boxes
    np.testing.assert_array_equal(boxes, [[2, 4, 7, 4], [0, 0, 97, 60], [24, 16, 48, 16]])


def test_the_table_of_faults_is_whole() -> None:
    import tasks.data.quality.issues as module

    assert {value for value in vars(module).values() if isinstance(value, module.Issue)} == set(ISSUES)
    assert len({issue.name for issue in ISSUES}) == len(ISSUES)
