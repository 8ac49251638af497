"""YOLO's and VOC's files as other tools write them: what is read, what is refused, and in which words."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tests.fuzz.annotations import HEIGHT, WIDTH
from tests.tasks.data.formats.known import issues, sound

# YOLO


def label(root: Path, line: str) -> Path:
    (root / "labels/train/train0.txt").write_text(line + "\n")
    return root


def test_a_sixth_column(tmp_path: Path) -> None:
    root = label(sound(tmp_path, "yolo"), "0 0.5 0.5 0.2 0.2 0.9")
    with pytest.raises(ValueError, match=r"6 columns, a confidence\?"):
        YoloData(root).split("train")
    box = YoloData(root, on_invalid="fix").split("train").annotations.boxes[0]
    np.testing.assert_allclose(box, [0.4 * WIDTH, 0.4 * HEIGHT, 0.2 * WIDTH, 0.2 * HEIGHT])


@pytest.mark.parametrize(("shape", "points"), [("[3, 2]", 6), ("[2, 3]", 6), ("[17, 3]", 51)])
def test_key_points_are_no_polygon(tmp_path: Path, shape: str, points: int) -> None:
    root = label(sound(tmp_path, "yolo"), "1 0.5 0.5 0.2 0.2 " + "0.1 " * points)
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + f"kpt_shape: {shape}\n")
    found = YoloData(root, masks=True).split("train").annotations
    np.testing.assert_allclose(found.boxes[0], [0.4 * WIDTH, 0.4 * HEIGHT, 0.2 * WIDTH, 0.2 * HEIGHT])
    assert found.segmentation(0) is None
    label(root, "1 0.5 0.5 0.2 0.2 " + "0.1 " * (points - 1))
    with pytest.raises(ValueError, match=f"columns, wanted 5, or {5 + points} by kpt_shape"):
        YoloData(root).split("train")


@pytest.mark.parametrize("shape", ["3", "[3]", "[0, 2]", "[3, 4]", "[a, b]"])
def test_a_shape_of_key_points_that_is_none(tmp_path: Path, shape: str) -> None:
    root = sound(tmp_path, "yolo")
    (root / "data.yaml").write_text((root / "data.yaml").read_text() + f"kpt_shape: {shape}\n")
    with pytest.raises(ValueError, match=r"data\.yaml' has kpt_shape .*wanted the number of key points"):
        YoloData(root)


def test_a_polygon_that_lost_a_number_is_no_box(tmp_path: Path) -> None:
    root = label(sound(tmp_path, "yolo"), "1 0.3 0.6 0.6 0.6 0.9 0.3 0.9")
    with pytest.raises(ValueError, match="has an odd count of numbers"):
        YoloData(root).split("train")  # detection, which takes the box from it
    assert len(YoloData(root, on_invalid="fix").split("train").annotations.ids) == 3


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_byte_order_marks(tmp_path: Path, encoding: str) -> None:
    root = sound(tmp_path, "yolo")
    expected = YoloData(root).split("train").annotations
    for file in [root / "data.yaml", *root.glob("labels/*/*.txt")]:
        file.write_bytes(file.read_text().encode(encoding))
    for on_invalid in ("error", "fix"):
        found = YoloData(root, on_invalid=on_invalid).split("train").annotations
        np.testing.assert_array_equal(found.boxes, expected.boxes)
        assert found.labels.tolist() == expected.labels.tolist()


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", "0 0.5".encode("utf-16-le"), b"\x80abc"])
def test_text_that_is_none_names_its_file(tmp_path: Path, content: bytes) -> None:
    root = sound(tmp_path, "yolo")
    (root / "labels/train/train0.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"labels/train/train0\.txt' is no text in UTF-8"):
        YoloData(root).split("train")


def test_roboflows_places(tmp_path: Path) -> None:
    root = sound(tmp_path, "yolo")
    for split, folder in (("train", "train"), ("val", "valid")):
        (root / folder).mkdir()
        (root / f"images/{split}").rename(root / folder / "images")
        (root / f"labels/{split}").rename(root / folder / "labels")
    (root / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\nnc: 2\nnames: ['cat', 'dog']\n"
    )
    assert len(YoloData(root).split("train").annotations.ids) == 6
    assert issues(YoloData(root)) == set()


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nnames: [*c, *c]\n", "names: &a [*a]\n", "[" * 2000,
        "d: 2001-99-99",
        "names: {[a]: b}", "names: [[a]]", "? [a]\n: b", "names: !!binary x", "x: !!python/object/apply:os.getcwd []",
    ],
)  # fmt: skip
def test_yaml_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"data\.yaml'") as caught:
        YoloData(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_folder_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match="folder' is a folder; data.file= wants"):
        YoloData(tmp_path, file="folder")


# VOC


def test_blanks_in_names_and_flags_behind_them(tmp_path: Path) -> None:
    root = sound(tmp_path, "voc")
    for folder, ending in (("JPEGImages", "png"), ("Annotations", "xml")):
        for number, name in enumerate(("photo a", "photo 1")):
            (root / folder / f"train{number}.{ending}").rename(root / folder / f"{name}.{ending}")
    (root / "ImageSets/Main/train.txt").write_text("photo a -1\nphoto 1\n")
    found = VocData(root).split("train").annotations
    assert [found.file_name(i) for i in range(2)] == ["photo a.png", "photo 1.png"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: '<?xml version="1.0" encoding="ansi"?>' + t, r"train0\.xml' is in an encoding that cannot be read"),
        (lambda t: "<html><body>Not found</body></html>", r"train0\.xml' is XML but not VOC's: it begins with <html>"),
        (lambda t: t.replace("annotation>", "doc>"), "begins with <doc>"),
        (lambda t: t[:-5], r"train0\.xml' is no XML that can be read"),
        (lambda t: '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;">]><annotation>&c;</annotation>', "no XML"),
    ],
)  # fmt: skip
def test_xml_that_is_not_vocs(tmp_path: Path, change: Callable[[str], str], message: str) -> None:
    root = sound(tmp_path, "voc")
    file = root / "Annotations/train0.xml"
    file.write_text(change(file.read_text()))
    with pytest.raises(ValueError, match=message):
        VocData(root).split("train")


def test_a_namespace_changes_nothing(tmp_path: Path) -> None:
    root = sound(tmp_path, "voc")
    expected = VocData(root).split("train").annotations.boxes
    file = root / "Annotations/train0.xml"
    file.write_text(file.read_text().replace("<annotation>", '<annotation xmlns="http://example.org/voc">'))
    np.testing.assert_array_equal(VocData(root).split("train").annotations.boxes, expected)


@pytest.mark.parametrize("side", ["1e400", "nan", "-1", "x", "", "9" * 400])
def test_sizes_in_xml_that_are_none(tmp_path: Path, side: str) -> None:
    root = sound(tmp_path, "voc")
    file = root / "Annotations/train0.xml"
    file.write_text(file.read_text().replace(f"<width>{WIDTH}", f"<width>{side}"))
    assert VocData(root).split("train").annotations.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
