"""Data as other tools write it, and as hostile files are: what is read, what is refused, and in which words."""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.cli.check_data import check_data
from tasks.cli.compose import compose
from tasks.cli.convert_data import convert_data
from tasks.data.datamodule import DataModule
from tasks.data.formats import cache
from tasks.data.formats.coco import CocoData
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tasks.data.quality.report import examine
from tasks.preprocessing import Preprocessing
from tests.fuzz.annotations import HEIGHT, WIDTH, Input, genuine, write

PREPROCESSING = Preprocessing(short_side=HEIGHT, max_size=WIDTH)
TRAIN = "annotations/instances_train2017.json"
SOURCES: dict[str, Callable[..., Any]] = {"coco": CocoData, "voc": VocData, "yolo": YoloData}


def sound(root: Path, kind: str, **files: str) -> Path:
    """A sound data set of two images and six objects a split; `files` are of YOLO's or VOC's, by stem."""
    content = genuine(kind)
    return write(root, Input("", kind, content))


def edit(root: Path, change: Callable[[dict[str, Any]], Any], file: str = TRAIN) -> Path:
    content = json.loads((root / file).read_text())
    change(content)
    (root / file).write_text(json.dumps(content))
    return root


def each(**values: Any) -> Callable[[dict[str, Any]], None]:
    """Sets these fields of every annotation."""
    return lambda content: [a.update(values) for a in content["annotations"]] and None


def issues(source: Any) -> set[str]:
    return {finding.issue.name for finding in examine(source, PREPROCESSING).findings}


def texts(source: Any) -> str:
    return " | ".join(f"{f.issue.name}: {f}" for f in examine(source, PREPROCESSING).findings)


# COCO


@pytest.mark.parametrize(
    ("value", "crowd"),
    [
        ("0", False), (0.0, False), (False, False), (None, False), ("false", False), ("1", True), (True, True),
        ("True", True),
    ],
)  # fmt: skip
def test_crowd_flags(tmp_path: Path, value: Any, crowd: bool) -> None:
    root = edit(sound(tmp_path, "coco"), each(iscrowd=value))
    assert set(CocoData(root).split("train").annotations.is_crowd.tolist()) == {crowd}


@pytest.mark.parametrize("value", ["maybe", 2, -1, [], "2"])
def test_a_crowd_flag_that_is_none(tmp_path: Path, value: Any) -> None:
    root = edit(sound(tmp_path, "coco"), lambda c: c["annotations"][1].update(iscrowd=value))
    with pytest.raises(ValueError, match=r"annotation 2 .* crowd flag is neither 0 nor 1 .*iscrowd"):
        CocoData(root).split("train")
    assert CocoData(root, on_invalid="fix").split("train").annotations.ids.tolist() == [1, 3, 11, 12, 13]


def test_numbers_as_strings_row_by_row(tmp_path: Path) -> None:
    root = sound(tmp_path, "coco")
    expected = CocoData(root).split("train").annotations.boxes

    def spell(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            row.update(bbox=[str(v) for v in row["bbox"]], area=str(row["area"]))
        content["annotations"][1]["bbox"] = []
        del content["annotations"][0]["bbox"]  # from run lengths
        content["annotations"][4]["bbox"] = ["10", "x", "5", "5"]

    edit(root, spell)
    with pytest.raises(ValueError, match=r"1 of 6 annotations cannot be used: annotation 12 "):
        CocoData(root).split("train")
    found = CocoData(root, on_invalid="drop").split("train").annotations
    np.testing.assert_array_equal(found.boxes, np.delete(expected, 4, axis=0))


@pytest.mark.parametrize("number", [10**400, -(10**400), 1e400, "1e999", "9" * 400, float("nan")])
def test_numbers_beyond_all_numbers(tmp_path: Path, number: Any) -> None:
    root = edit(sound(tmp_path, "coco"), lambda c: c["annotations"][2].update(bbox=[1, 2, number, 4]))
    with pytest.raises(ValueError, match="annotation 3 .* is not made of finite numbers"):
        CocoData(root).split("train")
    edit(
        root,
        lambda c: c["annotations"][2].update(bbox=[5, 40, 60, 20], segmentation=[[number, 2, 3, 4, 5, 6]]),
    )
    with pytest.raises(ValueError, match="annotation 3 .* is neither polygons nor run lengths"):
        CocoData(root, masks=True).split("train")


def test_an_integer_of_more_digits_than_python_reads(tmp_path: Path) -> None:
    root = sound(tmp_path, "coco")
    (root / TRAIN).write_text((root / TRAIN).read_text().replace('"area": 600', f'"area": {"9" * 5000}'))
    with pytest.raises(ValueError, match=r"instances_train2017\.json' is not JSON"):
        CocoData(root).split("train")


@pytest.mark.parametrize("area", [0, -5, "0"])
def test_areas_that_are_not_positive(tmp_path: Path, area: Any) -> None:
    root = edit(sound(tmp_path, "coco"), lambda c: c["annotations"][1].update(area=area))
    with pytest.raises(ValueError, match=r"annotation 2 .*its area is zero or negative"):
        CocoData(root).split("train")
    assert CocoData(root, on_invalid="fix").split("train").annotations.areas[1] == 25 * 30


@pytest.mark.parametrize(
    "bad", [[[1, 2, 3]], [[1, 2]], "mask", {"size": [1, 2], "counts": "x"}, {"counts": 3}, [["a"] * 6]]
)
def test_the_mask_goes_and_the_box_stays(tmp_path: Path, bad: Any) -> None:
    root = edit(sound(tmp_path, "coco"), lambda c: c["annotations"][1].update(segmentation=bad))
    with pytest.raises(ValueError, match="1 of 6 annotations cannot be used: annotation 2 "):
        CocoData(root, masks=True).split("train")
    found = CocoData(root, masks=True, on_invalid="fix").split("train").annotations
    assert len(found.ids) == 6
    assert found.segmentation(1) is None


def test_segmentations_as_tools_write_them(tmp_path: Path) -> None:
    root = sound(tmp_path, "coco")

    def wrap(content: dict[str, Any]) -> None:
        rows = content["annotations"]
        rows[0]["segmentation"] = [rows[0]["segmentation"]]  # run lengths in a list
        rows[1]["segmentation"] = rows[1]["segmentation"][0]  # a ring that is not in one
        rows[2]["segmentation"] = [[], *rows[2]["segmentation"]]
        rows[3]["segmentation"] = [[]]

    expected = CocoData(root, masks=True).split("train").annotations
    found = CocoData(edit(root, wrap), masks=True).split("train").annotations
    for row in (0, 1, 2, 4, 5):
        assert found.segmentation(row) == expected.segmentation(row)
    assert found.segmentation(3) is None
    np.testing.assert_array_equal(found.boxes, expected.boxes)


def test_objects_without_a_mask(tmp_path: Path) -> None:
    root = edit(sound(tmp_path, "coco"), lambda c: [a.pop("segmentation") for a in c["annotations"][2:]])
    assert "object without mask" in issues(CocoData(root))
    assert len(CocoData(root).split("train").annotations.ids) == 6  # detection needs none
    with pytest.raises(ValueError, match=r"4 of 6 objects have no mask.*annotation 3 .*task=detection"):
        CocoData(root).with_masks(required=True).split("train")
    assert (
        len(CocoData(root, on_invalid="drop").with_masks(required=True).split("train").annotations.ids) == 2
    )


def test_sizes_come_from_the_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = sound(tmp_path, "coco")

    def lose(content: dict[str, Any]) -> None:
        content["images"][0].update(height=-1, width=-1)
        del content["images"][1]["height"]

    found = CocoData(edit(root, lose)).split("train").annotations
    assert found.sizes.tolist() == [[HEIGHT, WIDTH]] * 2
    assert "2 of 2 images declare no height and width that can be one" in caplog.text


def test_ids_that_are_strings(tmp_path: Path) -> None:
    def name(content: dict[str, Any]) -> None:
        for image in content["images"]:
            image["id"] = f"000{image['id']}"
        for row in content["annotations"]:
            row.update(
                image_id=f"000{row['image_id']}", category_id=f"c{row['category_id']}", id=f"a{row['id']}"
            )
        for category in content["categories"]:
            category["id"] = f"c{category['id']}"

    root = sound(tmp_path, "coco")
    plain = CocoData(root).split("train").annotations
    for split in ("train", "val"):
        edit(root, name, f"annotations/instances_{split}2017.json")
    source = CocoData(root)
    found = source.split("train").annotations
    assert found.image_ids.tolist() == [1, 2]
    assert found.labels.tolist() == plain.labels.tolist()
    written = found.to_coco()
    assert [image["id"] for image in written["images"]] == ["0001", "0002"]
    assert {a["image_id"] for a in written["annotations"]} == {"0001", "0002"}
    assert [c["id"] for c in written["categories"]] == ["c1", "c2"]
    assert written["annotations"][0]["id"] == "a1"
    assert source.split("val").annotations.category_ids.tolist() == [1, 2]


def test_integral_floats_and_plain_strings_are_the_numbers(tmp_path: Path) -> None:
    root = sound(tmp_path, "coco")
    plain = CocoData(root).split("train").annotations.to_coco()
    edit(root, lambda c: [i.update(id=float(i["id"])) for i in c["images"]])
    edit(root, lambda c: [a.update(image_id=str(a["image_id"])) for a in c["annotations"]])
    assert CocoData(root).split("train").annotations.to_coco() == plain


@pytest.mark.parametrize(
    ("on_disk", "written"),
    [
        ("train0.png", "images\\train0.png"), ("a b.png", "a%20b.png"), ("train0.png", "train0.PNG"),
        ("b\u00e4ume.png", "ba\u0308ume.png"), ("train0.png", "/home/somebody/data/train0.png"),
        ("train0.png", "../../train0.png"), ("train0.png", "https://host/data/train0.png?size=1"),
        ("deep/a.png", "deep\\a.png"),
    ],
)  # fmt: skip
def test_names_are_read_as_they_fit(
    tmp_path: Path, on_disk: str, written: str, caplog: pytest.LogCaptureFixture
) -> None:
    root = sound(tmp_path, "coco")
    (root / "train2017" / on_disk).parent.mkdir(exist_ok=True)
    (root / "train2017/train0.png").rename(root / "train2017" / on_disk)
    edit(root, lambda c: c["images"][0].update(file_name=written))
    split = CocoData(root).split("train")
    assert split.annotations.file_name(0) == on_disk
    assert split.image(0).shape == (HEIGHT, WIDTH, 3)
    assert "image names are read as they fit a file" in caplog.text


def test_two_names_are_never_one_file(tmp_path: Path) -> None:
    root = edit(sound(tmp_path, "coco"), lambda c: c["images"][0].update(file_name="b/train1.png"))
    with pytest.raises(ValueError, match=r"image 1 'b/train1\.png': its file is missing"):
        CocoData(root).split("train")


def test_a_group_that_is_named_as_a_class_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = edit(sound(tmp_path, "coco"), lambda c: c["categories"].insert(0, {"id": 0, "name": "cat"}))
    assert CocoData(root).split("train").annotations.category_ids.tolist() == [1, 2]
    assert "category 0 'cat', which has the name of another and no objects, is left out" in caplog.text


# Nothing to learn from


def all_crowd(root: Path) -> Any:
    return CocoData(edit(sound(root, "coco"), each(iscrowd=1)))


def no_annotation(root: Path) -> Any:
    return CocoData(edit(sound(root, "coco"), lambda c: c["annotations"].clear()))


def all_difficult(root: Path) -> Any:
    sound(root, "voc")
    for file in (root / "Annotations").glob("train*.xml"):
        file.write_text(file.read_text().replace("<difficult>0", "<difficult>1"))
    return VocData(root)


def labels_elsewhere(root: Path) -> Any:
    sound(root, "yolo")
    (root / "labels").rename(root / "annotations_txt")
    return YoloData(root)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (all_crowd, "all of its 6 objects are crowds"), (no_annotation, "not one of its 2 images has an annotation"),
        (all_difficult, "all of its 6 objects are difficult"),
        (labels_elsewhere, "there is no file of labels for any of its 2 images; that of 'train0.png' was looked for"),
    ],
)  # fmt: skip
def test_a_split_without_an_object_to_learn_from(
    tmp_path: Path, make: Callable[[Path], Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    source = make(tmp_path)
    with pytest.raises(ValueError, match=rf"nothing can be learned from the train split: {why}"):
        DataModule(source, PREPROCESSING, batch_size=1).train_dataloader()
    assert "nothing can be learned from the train split" in caplog.text  # a warning elsewhere
    report = examine(source, PREPROCESSING)
    assert "nothing to learn from" in {f.issue.name for f in report.findings}
    assert not report.has_errors


def test_a_class_of_crowds_alone(tmp_path: Path) -> None:
    def cats(content: dict[str, Any]) -> None:
        for row in content["annotations"]:
            row["iscrowd"] = int(row["category_id"] == 1)

    assert "category of crowds alone" in issues(CocoData(edit(sound(tmp_path, "coco"), cats)))


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


# Conversions


def convert_words(kind: str, root: Path, to: str, out: Path, *more: str) -> int:
    return convert_data(
        compose("convert_data", [f"data={kind}", f"data.root={root}", f"to={to}", f"out={out}", *more])
    )


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
@pytest.mark.parametrize("to", ["coco", "voc", "yolo"])
def test_every_object_comes_back_and_inside_its_image(tmp_path: Path, kind: str, to: str) -> None:
    root = sound(tmp_path / "in", kind)
    if kind == "coco":  # up to a pixel over each edge
        edit(root, lambda c: c["annotations"][1].update(bbox=[-0.8, -0.6, WIDTH + 1.5, HEIGHT + 1.2], segmentation=[
            [-0.8, -0.6, WIDTH + 0.7, -0.6, WIDTH + 0.7, HEIGHT + 0.6, -0.8, HEIGHT + 0.6]]))  # fmt: skip
        edit(root, lambda c: c["annotations"][2].update(bbox=[WIDTH - 0.4, 5, 1.2, 20], segmentation=[]))
    assert convert_words(kind, root, to, tmp_path / "out") == 0
    for split in ("train", "val"):
        raw = SOURCES[to](tmp_path / "out").raw(split, segmentations=True)
        assert len(raw.ids) == 6
        assert (raw.boxes[:, :2] >= -1e-9).all()
        assert (raw.boxes[:, :2] + raw.boxes[:, 2:] <= raw.sizes[raw.images][:, ::-1] + 1e-9).all()
        for rings in raw.segmentations or []:
            for ring in rings if isinstance(rings, list) else []:
                assert min(ring) >= 0 and max(ring[0::2]) <= WIDTH and max(ring[1::2]) <= HEIGHT
    if to == "yolo":
        for file in (tmp_path / "out/labels").rglob("*.txt"):
            assert all(0 <= float(v) <= 1 for line in file.read_text().splitlines() for v in line.split()[1:])


def test_names_with_a_folder_called_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sound(tmp_path / "in", "coco")
    for split in ("train", "val"):
        (root / f"{split}2017").rename(root / "moving")
        (root / f"{split}2017").mkdir()
        (root / "moving").rename(root / f"{split}2017/images")
        file = f"annotations/instances_{split}2017.json"
        edit(root, lambda c: [i.update(file_name=f"images/{i['file_name']}") for i in c["images"]], file)
    assert convert_words("coco", root, "yolo", tmp_path / "out") == 0
    assert len(YoloData(tmp_path / "out").split("train").annotations.ids) == 6


def test_lost_objects_are_told_by_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = edit(sound(tmp_path / "in", "coco"), lambda c: c["annotations"][1].update(iscrowd=1))
    assert convert_words("coco", root, "yolo", tmp_path / "a") == 1
    assert "lost: 1 of 12 objects are not written" in capsys.readouterr().out
    for number, word in enumerate(("crowd=drop", "crowd=keep", "allow_loss=true")):
        assert convert_words("coco", root, "yolo", tmp_path / f"b{number}", word) == 0


def test_what_does_not_read_back_is_not_kept(tmp_path: Path) -> None:
    root = sound(tmp_path / "in", "coco")
    for number in range(2):
        (root / f"train2017/train{number}.png").rename(root / f"train2017/train{number}.gif")
    edit(root, lambda c: [i.update(file_name=i["file_name"].replace("png", "gif")) for i in c["images"]])
    with pytest.raises(ValueError, match=r"reads back with 0 of 2 images|holds no images"):
        convert_words("coco", root, "yolo", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in"]


def test_folders_of_the_users_are_left_alone(tmp_path: Path) -> None:
    root = sound(tmp_path / "in", "coco")
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/thesis.txt").write_text("years of work")
    assert convert_words("coco", root, "voc", tmp_path / "out") == 0
    assert (tmp_path / "out.partial/thesis.txt").read_text() == "years of work"


# The report


def test_names_that_look_like_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sound(tmp_path / "in", "coco")
    for split in ("train", "val"):
        file = f"annotations/instances_{split}2017.json"
        edit(root, lambda c: c["categories"].append({"id": 3, "name": "[/] [bold] :smile:"}), file)
    assert (
        check_data(compose("check_data", ["data=coco", f"data.root={root}", f"run_dir={tmp_path / 'out'}"]))
        == 0
    )
    assert "[/] [bold] :smile:" in " ".join(capsys.readouterr().out.split())


# The cache


def damage_zeroed(place: Path) -> None:
    file = place / "boxes.npy"
    content = file.read_bytes()
    file.unlink()  # what maps the old file keeps it
    file.write_bytes(content[:128] + bytes(len(content) - 128))


def damage_cut(place: Path) -> None:
    file = place / "boxes.npy"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-8])


def damage_facts(text: str) -> Callable[[Path], object]:
    return lambda place: (place / "facts.json").write_text(text)


def lose_a_key(place: Path) -> None:
    content = json.loads((place / "facts.json").read_text())
    del content["messages"]
    (place / "facts.json").write_text(json.dumps(content))


@pytest.mark.parametrize("kind", ["coco", "voc", "yolo"])
@pytest.mark.parametrize(
    "damage", [damage_zeroed, damage_cut, damage_facts(""), damage_facts("[" * 100_000), damage_facts("{}"), lose_a_key]
)  # fmt: skip
def test_a_damaged_cache_is_told_of_and_made_anew(
    tmp_path: Path,
    kind: str,
    damage: Callable[[Path], object],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(cache, "SMALLEST_FILE", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    root = sound(tmp_path / "in", kind)
    expected = SOURCES[kind](root).split("train").annotations
    boxes, names = expected.boxes.copy(), list(expected.class_names)
    (place,) = root.rglob(".vertebra/*")
    source = SOURCES[kind](root)
    monkeypatch.setattr(source, "raw", None)  # what is cached is not read again
    np.testing.assert_array_equal(source.split("train").annotations.boxes, boxes)
    assert source.class_names == names
    damage(place)
    with caplog.at_level(logging.WARNING):
        found = SOURCES[kind](root).split("train").annotations
    np.testing.assert_array_equal(found.boxes, boxes)
    assert f"the annotation cache '{place}' is damaged" in caplog.text
    caplog.clear()
    SOURCES[kind](root).split("train")
    assert "damaged" not in caplog.text


@pytest.mark.parametrize("kind", ["voc", "yolo"])
def test_a_changed_label_makes_the_cache_anew(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SMALLEST_FILE", 0)
    root = sound(tmp_path, kind)
    assert len(SOURCES[kind](root).split("train").annotations.ids) == 6
    file = root / {"voc": "Annotations/train0.xml", "yolo": "labels/train/train0.txt"}[kind]
    file.write_text("<annotation/>" if kind == "voc" else "")
    assert len(SOURCES[kind](root).split("train").annotations.ids) == 3


# Pictures


def test_the_range_of_values(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = sound(tmp_path, "coco")
    ramp = np.tile(np.linspace(0, 1000, WIDTH).astype(np.uint16), (HEIGHT, 1))
    Image.fromarray(ramp).save(root / "train2017/train0.png")
    Image.fromarray(ramp.astype(np.float32)).save(root / "train2017/train1.tif")
    edit(root, lambda c: c["images"][1].update(file_name="train1.tif"))
    report = texts(CocoData(root))
    assert "few grey levels: image 1 'train0.png'" in report and "data.value_range=[0,1023]" in report
    assert "file unreadable: image 2 'train1.tif'" in report and "floating point" in report
    with pytest.raises(ValueError, match="floating point.*data.value_range="):
        CocoData(root).split("train")
    source = CocoData(root, value_range=[0, 1000])
    assert issues(source) == set()
    for index in range(2):
        image = source.split("train").image(index)
        assert image[0, 0, 0] == 0 and image[0, -1, 0] == 255
        assert np.abs(image[0, :, 0] - ramp[0] * 0.255).max() <= 0.5
    with pytest.raises(ValueError, match=r"data\.value_range=\(5, 5\) is not understood"):
        CocoData(root, value_range=(5, 5))
