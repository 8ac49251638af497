"""What a person reads when a data set in COCO's format is not as it should be."""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.data.formats.coco import CocoData
from tasks.data.quality.issues import DEGENERATE, UNKNOWN_CATEGORY
from tasks.data.quality.policy import BadData
from tests.tasks.data.coco_on_disk import picture, save_rotated

TRAIN = "annotations/instances_train2017.json"


def change(root: Path, edit: Callable[[dict[str, Any]], Any], file: str = TRAIN) -> None:
    content = json.loads((root / file).read_text())
    edit(content)
    (root / file).write_text(json.dumps(content))


def annotation(content: dict[str, Any], annotation_id: int) -> dict[str, Any]:
    return next(a for a in content["annotations"] if a["id"] == annotation_id)


def message(root: Path, kind: type[Exception] = ValueError, name: Any = "train", **options: Any) -> str:
    with pytest.raises(kind) as caught:
        CocoData(root, **options).split(name)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"data\.root=.*nowhere does not exist or is no folder; wanted"
    ):
        CocoData(tmp_path / "nowhere")


def test_missing_annotation_file(coco_root: Path) -> None:
    (coco_root / TRAIN).unlink()
    text = message(coco_root, FileNotFoundError)
    assert (
        f"annotation file '{coco_root / TRAIN}' does not exist; name it with data.train_annotations=" in text
    )


def test_missing_image_folder(coco_root: Path) -> None:
    text = message(coco_root, FileNotFoundError, train_images="pictures")
    assert f"image folder '{coco_root / 'pictures'}' does not exist; name it with data.train_images=" in text


def test_missing_images_are_found_at_load(coco_root: Path) -> None:
    for name in ("plain.jpg", "deeper/grey.png"):
        (coco_root / "train2017" / name).unlink()
    text = message(coco_root)
    assert "2 of 4 images" in text
    assert "image 700 'plain.jpg': its file is missing" in text
    assert "image 5 'deeper/grey.png': its file is missing" in text
    kept = CocoData(coco_root, on_invalid="drop").split("train").annotations
    assert kept.image_ids.tolist() == [12, 900]
    assert kept.ids.tolist() == [10, 31]


def test_a_folder_without_any_of_the_images_is_the_wrong_one(coco_root: Path) -> None:
    text = message(coco_root, FileNotFoundError, train_images="val2017", on_invalid="drop")
    assert "none of the 4 images" in text
    assert "'plain.jpg', 'rotated.jpg', 'deeper/grey.png', …; restore them, or name" in text
    assert "data.train_images=" in text


def test_a_missing_subfolder_is_a_missing_image(coco_root: Path) -> None:
    change(coco_root, lambda content: content["images"][0].update(file_name="elsewhere/plane.jpg"))
    assert "'elsewhere/plane.jpg'" in message(coco_root)


def test_a_split_that_was_not_named(coco_root: Path) -> None:
    text = message(coco_root, name="test")
    assert "no test split; name it with data.test_images= and data.test_annotations=" in text


@pytest.mark.parametrize("text", ["", '{"images": [', "\x00\x01", "<html>"])
def test_not_json(coco_root: Path, text: str) -> None:
    (coco_root / TRAIN).write_text(text)
    found = message(coco_root)
    assert "is not JSON" in found
    assert "data.train_annotations= wants an annotation file in COCO's JSON format" in found


def test_binary_file(coco_root: Path) -> None:
    (coco_root / TRAIN).write_bytes(b"\xff\xd8\xff\xe0 a picture")
    assert "is not JSON" in message(coco_root)


def test_a_folder_for_a_file(coco_root: Path) -> None:
    text = message(coco_root, train_annotations="annotations")
    assert "is a folder; data.train_annotations= wants an annotation file" in text


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ([], "no list 'images' and no list 'annotations' and no list 'categories'"),
        ({"images": [], "categories": []}, "no list 'annotations'"),
        ({"images": {}, "annotations": [], "categories": []}, "no list 'images'"),
    ],
)
def test_json_that_is_not_coco(coco_root: Path, content: Any, missing: str) -> None:
    (coco_root / TRAIN).write_text(json.dumps(content))
    text = message(coco_root)
    assert "is JSON but not COCO's" in text
    assert missing in text


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        (lambda c: c["images"].clear(), "lists no images"),
        (lambda c: c["categories"].clear(), "declares no categories"),
        (lambda c: c["images"][1].update(id=[12]), "images[1] has 'id' [12]; wanted an integer"),
        (lambda c: c["images"][1].update(id=12.5), "images[1] has 'id' 12.5; wanted an integer"),
        (lambda c: c["images"][1].update(file_name=""), "images[1] has 'file_name' ''; wanted the name"),
        (lambda c: c["images"][1].update(file_name="a\0"), "wanted the name of an image file"),
        (lambda c: c["images"][1].update(file_name="\ud800"), "wanted the name of an image file"),
        (lambda c: c["images"][1].update(id=2**70), "wanted an integer"),
        (lambda c: c["images"].append(7), "images[4] is 7; wanted an object"),
        (lambda c: c["annotations"][2].pop("category_id"), "annotations[2] has no 'category_id'"),
        (lambda c: c["annotations"][2].update(image_id=None), "annotations[2] has 'image_id' None"),
        (lambda c: c["categories"][1].update(id=17), "declares category id 17 more than once"),
        (lambda c: c["categories"][1].update(name="cat"), "declares 2 categories named 'cat'"),
    ],
)
def test_records_that_are_not_coco(
    coco_root: Path, edit: Callable[[dict[str, Any]], Any], expected: str
) -> None:
    change(coco_root, edit)
    text = message(coco_root, on_invalid="drop")  # no policy for annotations helps here
    assert expected in text
    assert str(coco_root / TRAIN) in text


def test_splits_with_different_categories(coco_root: Path) -> None:
    change(
        coco_root,
        lambda content: content["categories"][0].update(name="horse"),
        "annotations/instances_val2017.json",
    )
    source = CocoData(coco_root)
    source.split("train")
    with pytest.raises(
        ValueError, match=r"val and train splits declare different categories: 90 'horse', 90 'zebra'"
    ):
        source.split("val")


BAD = {
    "category": (lambda a: a.update(category_id=4), "its category is not declared (category_id 4,"),
    "image": (lambda a: a.update(image_id=1), "(image 1): its image_id points nowhere"),
    "same id": (
        lambda a: a.update(id=8),
        "annotation 8 (image 12, 'rotated.jpg', 30 wide and 50 high): its id",
    ),
    "outside": (lambda a: a.update(bbox=[20, 30, 11.5, 18]), "its box leaves the image (category_id 3, bbox"),
    "beyond": (lambda a: a.update(bbox=[30.2, 30, 0.5, 18]), "its box leaves the image"),
    "negative corner": (lambda a: a.update(bbox=[-1.5, 30, 10, 18]), "begins at negative coordinates"),
    "zero": (lambda a: a.update(bbox=[2, 30, 10, 0]), "its width or height is zero"),
    "negative": (lambda a: a.update(bbox=[2, 30, -10, 5]), "its corners are in the wrong order"),
    "swapped": (lambda a: a.update(bbox=[12, 48, -10, -18]), "its corners are in the wrong order"),
    "corners": (
        lambda a: a.update(bbox=[20, 30, 30, 48]),
        "holds two corners where x, y, width, height are meant",
    ),
    "fractions": (lambda a: a.update(bbox=[0.1, 0.5, 0.5, 0.25]), "in fractions of the image, not in pixels"),
    "repeated": (
        lambda a: a.update(image_id=900, category_id=90, bbox=[10.25, 5.125, 20.1, 10.3]),
        "it repeats an",
    ),
    "nan": (lambda a: a.update(bbox=[2, float("nan"), 10, 5]), "is not made of finite numbers"),
    "infinite": (lambda a: a.update(bbox=[2, 30, float("inf"), 5]), "is not made of finite numbers"),
    "three": (lambda a: a.update(bbox=[2, 30, 10]), "is not made of finite numbers"),
    "null": (lambda a: a.update(bbox=None), "is not made of finite numbers"),
    "no box": (lambda a: a.pop("bbox"), "is not made of finite numbers"),
    "words": (lambda a: a.update(bbox=["a", "b", "c", "d"]), "is not made of finite numbers"),
    "area": (lambda a: a.update(area=None), "is not made of finite numbers"),
}
FIXED = {
    "outside": [20, 30, 10, 18],
    "negative corner": [0, 30, 8.5, 18],
    "swapped": [2, 30, 10, 18],
    "corners": [20, 30, 10, 18],
    "fractions": [3, 25, 15, 12.5],
    "same id": [2, 30, 10, 18],
    "area": [2, 30, 10, 18],
}


@pytest.mark.parametrize("case", BAD)
def test_bad_annotation_stops_by_default_and_says_which(coco_root: Path, case: str) -> None:
    edit, expected = BAD[case]
    change(coco_root, lambda content: edit(annotation(content, 10)))
    text = message(coco_root)
    assert "1 of 4 annotations cannot be used: annotation" in text
    assert expected in text
    assert str(coco_root / TRAIN) in text
    assert "data.on_invalid=fix" in text
    assert "data.on_invalid=drop" in text


@pytest.mark.parametrize("policy", ["fix", "drop"])
@pytest.mark.parametrize("case", BAD)
def test_bad_annotation_mended_or_dropped_and_logged(
    coco_root: Path, case: str, policy: Any, caplog: pytest.LogCaptureFixture
) -> None:
    change(coco_root, lambda content: BAD[case][0](annotation(content, 10)))
    with caplog.at_level(logging.INFO):
        annotations = CocoData(coco_root, on_invalid=policy).split("train").annotations
    (record,) = (record for record in caplog.records if record.levelno == logging.WARNING)
    if policy == "fix" and case in FIXED:
        assert annotations.ids.tolist() == [8, 9, 32 if case == "same id" else 10, 31]
        assert annotations.boxes[2].tolist() == FIXED[case]
        assert "data.on_invalid=fix fixed 1 and dropped 0 of 4 annotations: 1 fixed because" in record.message
        (line,) = (record.message for record in caplog.records if record.levelno == logging.INFO)
        assert line.startswith("fixed annotation ") and "; becomes " in line
    else:
        assert annotations.ids.tolist() == [8, 9, 31]
        assert annotations.offsets.tolist() == [0, 2, 2, 2, 3]
        assert (
            f"data.on_invalid={policy} fixed 0 and dropped 1 of 4 annotations: 1 dropped because it"
            in record.message
        )
    for index in range(len(annotations)):
        boxes = annotations.target(index).boxes
        assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_many_bad_annotations_are_counted_and_a_few_named(
    coco_root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(content: dict[str, Any]) -> None:
        for index in range(20):
            bad = {"category_id": 4} if index % 2 else {"bbox": [0, index, 200, 10]}
            content["annotations"].append({**annotation(content, 10), "id": 100 + index, **bad})

    change(coco_root, spoil)
    text = message(coco_root)
    assert "20 of 24 annotations" in text
    assert [f"annotation {number} " in text for number in range(100, 106)] == [True] * 5 + [False]
    assert "and 15 more" in text
    CocoData(coco_root, on_invalid="fix").split("train")
    assert (
        "fixed 10 and dropped 10 of 24 annotations: 10 fixed because its box leaves the image, 10 dropped because "
        "its category is not declared" in caplog.text
    )


def test_float_dust_is_no_fault(coco_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(coco_root, lambda content: annotation(content, 10).update(bbox=[-0.9, -0.3, 31.8, 51.2]))
    annotations = CocoData(coco_root).split("train").annotations
    assert annotations.boxes[2].tolist() == [-0.9, -0.3, 31.8, 51.2]
    np.testing.assert_array_equal(annotations.target(1).boxes, [[0, 0, 30, 50]])
    assert not caplog.records


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1, 2, 3, 4]],
        [[1, 2, 3, 4, 5, 6, 7]],
        [[1, 2, 3, 4, 5, float("nan")]],
        {"size": [30, 50], "counts": "0"},
        {"size": [50, 30], "counts": [10, 10]},
        {"counts": [1500]},
        "mask",
    ],
)
def test_bad_segmentation_matters_when_masks_are_read(coco_root: Path, segmentation: Any) -> None:
    change(coco_root, lambda content: annotation(content, 10).update(segmentation=segmentation))
    assert len(CocoData(coco_root).split("train").annotations.ids) == 4
    assert "annotation 10 " in message(coco_root, masks=True)
    kept = CocoData(coco_root, masks=True, on_invalid="fix").split("train").annotations
    assert kept.ids.tolist() == [8, 9, 10, 31]  # the mask goes, the box stays
    assert kept.segmentation(2) is None
    assert kept.segmentation(3) == [[10.25, 5.125, 30.35, 5.125, 30.35, 15.425]]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (
            {"on_invalid": "ignore"},
            "data.on_invalid=ignore is unknown; wanted one of error, fix, drop, fix_few",
        ),
        ({"check_images": "all"}, "data.check_images=all is unknown; wanted one of decode, headers, none"),
        ({"max_images": 0}, "data.max_images=0 must be at least 1, or null for all"),
    ],
)
def test_options(coco_root: Path, options: dict[str, Any], expected: str) -> None:
    assert message(coco_root, **options) == expected


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-300])


IMAGES = {
    "truncated": (cut_short, "file is truncated or damaged", "cannot be decoded .*truncated, damaged"),
    "no image": (
        lambda p: p.write_text("<html>"),
        "no image that can be read",
        "is not an image in a format",
    ),
    "empty": (lambda p: p.write_bytes(b""), "no image that can be read", "is not an image in a format"),
    "turned": (
        lambda p: save_rotated(p, picture(60, 40)),
        "ignores the EXIF rotation of its file (declared 60 wide and 40 high, upright 40 wide and 60 high)",
        "upright, is 40 wide and 60 high, but .* 60 wide and 40 high, as if its EXIF",
    ),
    "other size": (
        lambda p: Image.fromarray(picture(41, 60)).save(p),
        "of another size than declared (declared 60 wide and 40 high, upright 60 wide and 41 high)",
        "upright, is 60 wide and 41 high, .* correct the annotation",
    ),
}


@pytest.mark.parametrize("case", IMAGES)
def test_bad_image_files_are_found_at_load_or_else_when_read(coco_root: Path, case: str) -> None:
    spoil, found, read = IMAGES[case]
    spoil(coco_root / "train2017/plain.jpg")
    for check_images in ("headers", "decode"):
        text = message(coco_root, check_images=check_images)
        assert "1 of 4 images cannot be used: image 700 'plain.jpg'" in text
        assert found in text
    with pytest.raises(ValueError, match=rf"plain\.jpg'.* {read}"):
        CocoData(coco_root, check_images="none").split("train").image(0)
    fixed = CocoData(coco_root, on_invalid="fix").split("train")
    assert fixed.annotations.image_ids.tolist() == [12, 5, 900]
    assert fixed.annotations.ids.tolist() == [10, 31]
    assert [fixed.image(i).shape for i in range(3)] == [(50, 30, 3), (32, 32, 3), (40, 60, 3)]


def test_damage_inside_a_file_shows_when_it_is_decoded(coco_root: Path) -> None:
    path = coco_root / "train2017/bäume.png"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    assert len(CocoData(coco_root).split("train")) == 4
    assert "image 900 'bäume.png': its file is truncated or damaged" in message(
        coco_root, check_images="decode"
    )


def test_one_id_for_two_images(coco_root: Path, caplog: pytest.LogCaptureFixture) -> None:
    change(coco_root, lambda content: content["images"][1].update(id=700))
    text = message(coco_root)
    assert "image 700 'rotated.jpg': its id is declared before (for 'plain.jpg')" in text
    assert "annotation 10 (image 12): its image_id points nowhere" in text
    kept = CocoData(coco_root, on_invalid="fix").split("train").annotations
    assert kept.image_ids.tolist() == [5, 900]  # of which of the two the boxes are, nothing says
    assert "dropped 1 of 4 annotations and dropped 2 of 4 images" in caplog.text


def test_one_image_declared_twice_counts_once(coco_root: Path) -> None:
    change(coco_root, lambda content: content["images"].append(dict(content["images"][0])))
    assert "image 700 'plain.jpg': its id is declared before" in message(coco_root)
    kept = CocoData(coco_root, on_invalid="fix").split("train").annotations
    assert kept.image_ids.tolist() == [700, 12, 5, 900]
    assert kept.ids.tolist() == [8, 9, 10, 31]


def test_a_picture_of_another_split_is_not_trained_on(coco_root: Path) -> None:
    shutil.copy(coco_root / "train2017/bäume.png", coco_root / "val2017/1.png")
    val = "annotations/instances_val2017.json"
    change(coco_root, lambda content: content["images"][1].update(height=40, width=60), val)
    text = message(coco_root)
    assert "image 900 'bäume.png': its file is also in another split (as '1.png', image 1 of val)" in text
    assert CocoData(coco_root, on_invalid="fix").split("train").annotations.image_ids.tolist() == [700, 12, 5]
    assert len(CocoData(coco_root).split("val")) == 2
    assert len(CocoData(coco_root, check_images="none").split("train")) == 4


def test_training_stops_at_errors_of_both_splits(coco_root: Path) -> None:
    change(coco_root, lambda content: annotation(content, 10).update(category_id=4))
    change(
        coco_root,
        lambda content: annotation(content, 1).update(bbox=[1, 2, 0, 4]),
        "annotations/instances_val2017.json",
    )
    with pytest.raises(BadData) as caught:
        CocoData(coco_root).split("train")
    assert [(f.split, f.annotation_id, f.issue) for f in caught.value.findings] == [
        ("train", 10, UNKNOWN_CATEGORY),
        ("val", 1, DEGENERATE),
    ]
    assert "2 of 5 annotations cannot be used" in str(caught.value)
