"""COCO as other tools write it: what is read, what is refused, and in which words."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.data.datamodule import DataModule
from tasks.data.formats.coco import CocoData
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tasks.data.quality.report import examine
from tests.fuzz.annotations import HEIGHT, WIDTH
from tests.tasks.data.formats.known import PREPROCESSING, TRAIN, each, edit, issues, sound

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
