"""The doctor on images of one class each and on class maps: every planted defect is named and nothing else."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.cli.check_data import check_data
from tasks.cli.compose import compose
from tasks.data.formats.digits import SingleDigitsData
from tasks.data.formats.image_folder import ImageFolderData
from tasks.data.formats.mask_png import MaskPngData
from tasks.data.quality.picture_report import examine_pictures
from tasks.data.quality.report import Report


def picture(seed: int, size: tuple[int, int] = (40, 56)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    return Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC)


def write(path: Path, image: Image.Image, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def found(report: Report) -> set[tuple[str, str, str | None]]:
    names = [(f.issue.name, f.split, f.file_name or str(f.category)) for f in report.findings]
    assert len(names) == len(set(names))
    return set(names)


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    seed = 0
    for split, count in (("train", 4), ("val", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                write(tmp_path / split / name / f"{i}.png", picture(seed := seed + 1))
    return tmp_path


@pytest.fixture
def masks(tmp_path: Path) -> Path:
    (tmp_path / "classes.txt").write_text("ground\ncar\n")
    for split, seeds in (("train", range(4)), ("val", range(10, 12))):
        for seed in seeds:
            write(tmp_path / "images" / split / f"{seed}.png", picture(seed))
            values = np.zeros((40, 56), np.uint8)
            values[5:20, 5:20] = 1
            write(tmp_path / "masks" / split / f"{seed}.png", Image.fromarray(values))
    return tmp_path


def test_sound_folders_have_no_issue(classes: Path) -> None:
    assert found(examine_pictures(ImageFolderData(classes))) == set()


def test_every_defect_of_images_with_classes(classes: Path) -> None:
    train, val = classes / "train", classes / "val"
    whole = write(train / "cat/cut.jpg", picture(20, (200, 200))).read_bytes()
    (train / "cat/cut.jpg").write_bytes(whole[: len(whole) // 2])
    (train / "cat/text.png").write_text("no picture")
    (train / "dog/again.png").write_bytes((train / "cat/0.png").read_bytes())
    (train / "cat/same.png").write_bytes((train / "cat/1.png").read_bytes())  # which teaches nothing false
    (train / "dog/1.png").write_bytes((val / "dog/1.png").read_bytes())
    write(train / "dog/near.jpg", Image.open(val / "cat/0.png"), quality=90)
    write(val / "cat/flat.png", Image.fromarray(np.arange(2240, dtype=np.uint16).reshape(40, 56)))
    write(train / "bird/only.png", picture(30))
    exif = Image.Exif()
    exif[274] = 6
    write(train / "cat/turned.jpg", picture(31), exif=exif)
    report = examine_pictures(ImageFolderData(classes))
    assert found(report) == {
        ("file truncated", "train", "cat/cut.jpg"),
        ("file unreadable", "train", "cat/text.png"),
        ("same picture in two classes", "train", "dog/again.png"),
        ("same picture in two splits", "train", "dog/1.png"),
        ("near copy in two splits", "train", "dog/near.jpg"),
        ("few grey levels", "val", "cat/flat.png"),
        ("category in one split only", "train", "bird"),
        ("EXIF rotation", "train", "cat/turned.jpg"),
    }
    assert report.has_errors and not report.has_policy


def test_a_split_that_cannot_be_read_leaves_the_others(classes: Path) -> None:
    write(classes / "val/fish/0.png", picture(40))
    report = examine_pictures(ImageFolderData(classes))
    (finding,) = report.findings
    assert finding.issue.name == "split unreadable" and "fish" in finding.detail
    assert list(report.splits) == ["train"]


def test_every_defect_of_masks(masks: Path) -> None:
    assert found(examine_pictures(MaskPngData(masks))) == set()
    (masks / "classes.txt").write_text("ground\ncar\ntree\n")
    train = masks / "masks/train"
    (train / "0.png").unlink()
    write(train / "1.png", Image.fromarray(np.zeros((40, 55), np.uint8)))
    write(train / "2.png", Image.fromarray(np.full((40, 56), 9, np.uint8)))
    write(masks / "masks/val/10.png", Image.fromarray(np.full((40, 56), 255, np.uint8)))
    write(masks / "masks/val/11.png", Image.fromarray(np.zeros((40, 56), np.uint8)))
    report = examine_pictures(MaskPngData(masks))
    assert found(report) == {
        ("mask unusable", "train", "0.png"),
        ("mask unusable", "train", "1.png"),
        ("mask unusable", "train", "2.png"),
        ("nothing in the mask", "val", "10.png"),
        ("unused category", "train, val", "tree"),
        ("category in one split only", "train", "car"),
    }
    details = {f.file_name: f.detail for f in report.findings}
    assert details["0.png"].endswith("0.png' is missing") and "55 wide" in details["1.png"]
    assert "has the value 9 in 2240 pixels" in details["2.png"]


def test_a_mask_elsewhere_is_not_read(masks: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = write(tmp_path_factory.mktemp("elsewhere") / "secret.png", Image.new("L", (56, 40)))
    link = masks / "masks/train/0.png"
    link.unlink()
    os.symlink(elsewhere, link)
    (finding,) = examine_pictures(MaskPngData(masks)).findings
    assert finding.issue.name == "split unreadable" and "is outside the data set" in finding.detail


def test_the_command_finds_the_layout(
    classes: Path, tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    (classes / "train/dog/again.png").write_bytes((classes / "train/cat/0.png").read_bytes())
    out = tmp_path_factory.mktemp("out") / "report"
    result = check_data(compose("check_data", [f"data.root={classes}", f"run_dir={out}"]))
    printed = capsys.readouterr().out
    assert result.status == 1 and "train: 9 images, 2 categories" in printed and "on_invalid" not in printed
    assert "image 8 'dog/again.png': its file is also in another class (as 'cat/0.png')" in printed
    content = json.loads((out / "report.json").read_text())
    assert content["splits"]["val"] == {"images": 4, "categories": 2}
    page = (out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 1 and "on_invalid" not in page


def test_pictures_that_are_in_no_file_are_refused() -> None:
    with pytest.raises(ValueError, match="SingleDigitsData has no files"):
        examine_pictures(SingleDigitsData())
