"""Settings, links and files that lead elsewhere: what is read, what is refused, and in which words."""

import os
from pathlib import Path

import pytest

from tasks.cli.check_data import check_data
from tasks.cli.compose import compose
from tasks.cli.convert_data import convert_data
from tasks.data.formats.coco import CocoData
from tasks.data.formats.yolo import YoloData
from tasks.data.quality.report import examine
from tests.fuzz.annotations import HEIGHT, WIDTH
from tests.tasks.data.formats.known import PREPROCESSING, SOURCES, TRAIN, edit, issues, sound

# Settings that name what is not there


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("coco", {"train_annotations": "annotations/trian.json"}), ("coco", {"val_images": "vla2017"}),
        ("coco", {"test_images": "val2017", "test_annotations": "test.json"}),
        ("voc", {"train": "trian"}), ("voc", {"test": "tset"}),
    ],
)  # fmt: skip
def test_a_mistyped_setting_is_an_error_everywhere(
    tmp_path: Path, kind: str, options: dict[str, str]
) -> None:
    root = sound(tmp_path / "in", kind)
    words = [f"data={kind}", f"data.root={root}", *(f"data.{key}={value}" for key, value in options.items())]
    for tool, more in ((check_data, ["run_dir=x"]), (convert_data, ["to=coco", f"out={tmp_path / 'out'}"])):
        with pytest.raises(Exception, match=r"trian|vla2017|test\.json|tset") as caught:
            tool(compose(tool.__name__, [*words, *more]))
        assert "FileNotFoundError" in repr(caught.value) or "does not exist" in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
def test_train_and_val_are_expected(tmp_path: Path, kind: str) -> None:
    root = sound(tmp_path / "in", kind)
    lost = {"coco": TRAIN, "voc": "ImageSets/Main/train.txt", "yolo": "images/train"}[kind]
    (root / lost).rename(tmp_path / "away")
    report = examine(SOURCES[kind](root), PREPROCESSING)
    assert [(f.issue.name, f.split) for f in report.findings if f.issue.severity == "error"] == [
        ("split unreadable", "train")
    ]
    with pytest.raises((FileNotFoundError, ValueError), match="does not exist|there is no list of images"):
        convert_data(
            compose(
                "convert_data", [f"data={kind}", f"data.root={root}", "to=coco", f"out={tmp_path / 'out'}"]
            )
        )


# Files outside


def test_files_outside_are_read_with_a_word_alone(tmp_path: Path) -> None:
    root = sound(tmp_path / "in", "coco")
    (root / "train2017/train0.png").rename(tmp_path / "secret.png")
    for name in (str(tmp_path / "secret.png"), "../../secret.png", "link.png"):
        edit(root, lambda c, name=name: c["images"][0].update(file_name=name))
        (root / "train2017/link.png").unlink(missing_ok=True)
        (root / "train2017/link.png").symlink_to(tmp_path / "secret.png")
        with pytest.raises(ValueError, match=r"is outside the data set .*data\.allow_outside=true"):
            CocoData(root).split("train")
        with pytest.raises(ValueError, match="is outside the data set"):
            CocoData(root, check_images="none").split("train").image(0)
        assert "file outside data set" in issues(CocoData(root))
        assert CocoData(root, allow_outside=True).split("train").image(0).shape == (HEIGHT, WIDTH, 3)
        words = ["data=coco", f"data.root={root}", "to=coco", f"out={tmp_path / 'out'}"]
        with pytest.raises(ValueError, match="is outside the data set"):
            convert_data(compose("convert_data", words))
        assert not (tmp_path / "out").exists()


def test_the_converter_says_what_it_takes_from_outside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = sound(tmp_path / "in", "coco")
    (root / "train2017/train0.png").rename(tmp_path / "elsewhere.png")
    edit(root, lambda c: c["images"][0].update(file_name="../../elsewhere.png"))
    words = [
        "data=coco",
        f"data.root={root}",
        "to=yolo",
        f"out={tmp_path / 'out'}",
        "data.allow_outside=true",
    ]
    assert convert_data(compose("convert_data", words)).status == 0
    assert "note: 1 images copied from outside the data set" in capsys.readouterr().out


def test_links_inside_are_read(tmp_path: Path) -> None:
    root = sound(tmp_path / "in", "coco")
    (root / "train2017").rename(root / "store")
    (root / "train2017").mkdir()
    for number in range(2):
        (root / f"train2017/train{number}.png").symlink_to(root / f"store/train{number}.png")
    assert CocoData(root).split("train").image(1).shape == (HEIGHT, WIDTH, 3)


def test_places_in_data_yaml_outside(tmp_path: Path) -> None:
    root = sound(tmp_path / "in", "yolo")
    (root / "images").rename(tmp_path / "images")
    for text in (
        f"path: {tmp_path}\ntrain: images/train",
        f"train: {tmp_path}/images/train",
        "train: ../images/train",
    ):
        (root / "data.yaml").write_text(f"{text}\nval: {tmp_path}/images/val\nnames: [cat, dog]\n")
        with pytest.raises(ValueError, match=r"outside the data set.*data\.allow_outside=true"):
            YoloData(root).split("train")
        assert len(YoloData(root, allow_outside=True).split("train")) == 2


def test_pipes_and_devices_are_no_files(tmp_path: Path) -> None:
    root = sound(tmp_path, "coco")
    os.mkfifo(root / "train2017/pipe.png")
    edit(root, lambda c: c["images"][0].update(file_name="pipe.png"))
    with pytest.raises(ValueError, match=r"pipe\.png' is a pipe, a socket or a device; wanted a file"):
        CocoData(root).split("train")
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        CocoData(root, check_images="none").split("train").image(0)
    (root / TRAIN).unlink()
    os.mkfifo(root / TRAIN)
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        CocoData(root).split("train")
