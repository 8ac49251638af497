"""Pascal VOC's layout: boxes, difficult objects, masks of classes and objects, and what may be wrong."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tasks.contracts import Batch, Detections
from tasks.data.formats.voc import VOC_CLASSES, VocData
from tasks.detection.matching import valid_targets
from tasks.metrics.coco import CocoMetric
from tasks.targets import IGNORE_LABEL
from tests.tasks.data.coco_on_disk import picture

DATA = Path(os.environ.get("VERTEBRA_DATA", Path(__file__).parents[4] / "../shared/data"))

Object = tuple[str, int, int, int, int, int]  # name, xmin, ymin, xmax, ymax, difficult
OBJECTS: dict[str, list[Object]] = {
    "a": [("dog", 1, 1, 30, 20, 0), ("cat", 3, 5, 12, 14, 1)],
    "b": [],
    "c": [("cat", 21, 11, 30, 20, 0)],
}


def xml(objects: list[Object], size: tuple[int, int] | None = (20, 30)) -> str:
    rows = "".join(
        f"<object><name>{name}</name><truncated>0</truncated><difficult>{difficult}</difficult>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
        "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for name, x0, y0, x1, y1, difficult in objects
    )
    declared = "" if size is None else f"<size><width>{size[1]}</width><height>{size[0]}</height></size>"
    return f"<annotation><filename>wrong.png</filename>{declared}{rows}</annotation>"


def write(root: Path) -> Path:
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name, objects in OBJECTS.items():
        Image.fromarray(picture(20, 30)).save(root / f"JPEGImages/{name}.{'png' if name == 'c' else 'jpg'}")
        (root / f"Annotations/{name}.xml").write_text(xml(objects))
    (root / "ImageSets/Main/train.txt").write_text("a\nb  1\n\n")
    (root / "ImageSets/Main/val.txt").write_text("c -1\n")
    return root


def write_masks(root: Path, classes: np.ndarray, objects: np.ndarray) -> None:
    """For image a alone."""
    (root / "ImageSets/Segmentation").mkdir()
    for split in ("train", "val"):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("a\n")
    for folder, values in (("SegmentationClass", classes), ("SegmentationObject", objects)):
        (root / folder).mkdir()
        image = Image.fromarray(values)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tolist())
        image.save(root / folder / "a.png")


def masks_of_a() -> tuple[np.ndarray, np.ndarray]:
    """The cat, object 2, lies on the dog, object 1."""
    objects = np.full((20, 30), 1, np.uint8)
    objects[4:14, 2:12] = 2
    objects[4, 2:12] = 255
    classes = np.array([0, 12, 8], np.uint8)[np.where(objects == 255, 0, objects)]  # dog 12, cat 8
    classes[objects == 255] = 255
    return classes, objects


def test_boxes_count_from_one_and_include_both_corners(tmp_path: Path) -> None:
    source = VocData(write(tmp_path))
    assert source.class_names == ["cat", "dog"]  # of both lists, sorted
    assert source.category_ids.tolist() == [1, 2]
    split = source.split("train")
    found = split.annotations
    assert [found.file_name(i) for i in range(len(split))] == ["a.jpg", "b.jpg"]
    assert found.boxes.tolist() == [[0, 0, 30, 20], [2, 4, 10, 10]]
    assert found.areas.tolist() == [600, 100]
    assert found.labels.tolist() == [1, 0]
    assert found.is_crowd.tolist() == [False, True]
    assert found.ids.tolist() == [1, 2]
    assert found.offsets.tolist() == [0, 2, 2]
    assert found.target(0).boxes.tolist() == [[0, 0, 30, 20], [2, 4, 12, 14]]
    assert len(found.target(1).boxes) == 0
    assert split.image(0).shape == (20, 30, 3)
    assert source.split("val").annotations.file_name(0) == "c.png"


@pytest.mark.parametrize(
    "second",
    ["<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>", "<name>cat</name>"],
)
def test_an_object_of_two_boxes_or_names_is_not_half_read(second: str, tmp_path: Path) -> None:
    path = write(tmp_path) / "Annotations" / "a.xml"
    path.write_text(path.read_text().replace("</bndbox><part>", f"</bndbox>{second}<part>", 1))
    with pytest.raises(
        ValueError, match=r"a\.xml' has an object 'dog' with several boxes or names; write an <object>"
    ):
        VocData(tmp_path).split("train")


def test_difficult_objects_are_neither_taught_nor_held_against_anyone(tmp_path: Path) -> None:
    annotations = VocData(write(tmp_path)).split("train").annotations
    target = annotations.target(0)
    columns = (torch.from_numpy(x)[None] for x in (target.boxes, target.labels, target.is_crowd))
    assert valid_targets(*columns).tolist() == [[True, False]]

    def average_precision(boxes: list, labels: list) -> float:
        metric = CocoMetric(annotations)
        batch = Batch(
            images=torch.zeros(2, 3, 1, 1, dtype=torch.uint8),
            sizes=torch.ones(2, 2),
            original_sizes=torch.ones(2, 2),
            image_ids=torch.tensor([0, 1]),
            boxes=torch.zeros(2, 0, 4),
            labels=torch.zeros(2, 0, dtype=torch.int64),
            is_crowd=torch.zeros(2, 0, dtype=torch.bool),
        )
        count = len(boxes)
        found = Detections(
            boxes=torch.zeros(2, count, 4), scores=torch.zeros(2, count), labels=torch.full((2, count), -1)
        )
        found.boxes[0], found.labels[0] = torch.tensor(boxes), torch.tensor(labels)
        found.scores[0] = torch.linspace(0.9, 0.5, count)
        metric.update(found, batch)
        return metric.compute()["AP50"]

    dog, cat = [0.0, 0, 30, 20], [2.0, 4, 12, 14]
    assert average_precision([dog], [1]) == pytest.approx(1)  # the cat is not missed
    assert average_precision([cat, dog], [0, 1]) == pytest.approx(1)  # nor false when found
    assert average_precision([cat, dog], [1, 1]) == pytest.approx(0.5)  # but a cat is no dog


def test_an_unknown_size_is_read_from_the_picture(tmp_path: Path) -> None:
    write(tmp_path)
    for declared in (None, (0, 0)):
        (tmp_path / "Annotations/a.xml").write_text(xml(OBJECTS["a"], declared))
        assert VocData(tmp_path).split("train").annotations.sizes.tolist() == [[20, 30]] * 2


def test_degenerate_boxes_of_both_lists_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "Annotations/a.xml").write_text(xml([("dog", 5, 5, 5, 5, 0), OBJECTS["a"][0]]))
    (tmp_path / "Annotations/c.xml").write_text(xml([("cat", 9, 5, 3, 8, 0)]))
    message = (
        r"train.txt' and '.*val.txt': 2 of 3 annotations cannot be used: annotation 1 \(image 0, 'a.jpg'.*height is "
        r"zero \(category 'dog', bbox .* = 4, 4, 0, 0\).*'c.png'.*wrong order, .* = 9, 4, -7, 4"
    )
    with pytest.raises(ValueError, match=message):
        VocData(tmp_path).split("train")
    dropped = VocData(tmp_path, on_invalid="drop")
    assert dropped.split("train").annotations.boxes.tolist() == [[0, 0, 30, 20]]
    fixed = VocData(tmp_path, on_invalid="fix").split("val").annotations
    assert fixed.boxes.tolist() == [[2, 4, 7, 4]]  # corners 3 to 9, swapped back
    assert len(dropped.split("val").annotations.boxes) == 0


@pytest.mark.parametrize("text", ["", "three", "nan"])
def test_a_corner_that_is_no_number(text: str, tmp_path: Path) -> None:
    write(tmp_path)
    content = xml(OBJECTS["a"]).replace("<xmin>3</xmin>", f"<xmin>{text}</xmin>")
    (tmp_path / "Annotations/a.xml").write_text(content)
    with pytest.raises(ValueError, match="1 of 2 .*'a.jpg'.*not made of finite numbers"):
        VocData(tmp_path).split("train")


def test_classes_may_be_given(tmp_path: Path) -> None:
    write(tmp_path)
    source = VocData(tmp_path, classes=["dog", "cat"])
    assert source.split("train").annotations.labels.tolist() == [0, 1]
    with pytest.raises(
        ValueError, match="'a.jpg'.*: its category is not declared \\(category 'cat', .*on_invalid=drop"
    ):
        VocData(tmp_path, classes=["dog"]).split("train")
    assert VocData(tmp_path, classes=["dog"], on_invalid="drop").split(
        "train"
    ).annotations.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "ImageSets/Main/train.txt").unlink(), r"no list .*train.txt' \(there are val\).*data.train="),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("\n"), "train.txt' is empty"),
        (lambda r: (r / "ImageSets/Main/train.txt").write_text("a\na\n"), "train.txt' names 'a' more than once"),
        (lambda r: (r / "JPEGImages/b.jpg").unlink(), "1 of 2 images .*: image 1 'b.jpg': its file is missing"),
        (lambda r: (r / "Annotations/b.xml").unlink(), "image 'b.jpg' has no annotation: '.*b.xml' does not exist"),
        (lambda r: (r / "Annotations/b.xml").write_text("<annotation>"), "b.xml' is no XML that can be read"),
        (lambda r: (r / "Annotations/b.xml").write_text(xml([("", 1, 1, 2, 2, 0)])), "b.xml' has an object without"),
    ],
)  # fmt: skip
def test_damaged_data(damage, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        VocData(tmp_path).split("train")


def test_another_layout(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="not in Pascal VOC's layout: there is no folder '.*JPEGImages'"
    ):
        VocData(tmp_path)


def test_another_size_than_declared(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "Annotations/b.xml").write_text(xml([], (10, 10)))
    with pytest.raises(
        ValueError, match="'b.jpg': its file is of another size than declared \\(declared 10 wide"
    ):
        VocData(tmp_path).split("train")
    split = VocData(tmp_path, check_images="none").split("train")
    with pytest.raises(
        ValueError, match="b.jpg', upright, is 30 wide and 20 high, but its annotations declare 10"
    ):
        split.image(1)


def test_object_masks(tmp_path: Path) -> None:
    write(tmp_path)
    _, objects = masks_of_a()
    write_masks(tmp_path, *masks_of_a())
    source = VocData(tmp_path, masks=True, val=None)  # nothing else to find image a in
    annotations = source.split("train").annotations
    assert len(annotations) == 1  # of the list for segmentation
    masks = annotations.target(0).masks
    assert masks is not None
    for value, mask in enumerate(masks, start=1):
        whole = np.zeros((20, 30), np.uint8)
        height, width = mask.bitmap.shape
        whole[mask.top : mask.top + height, mask.left : mask.left + width] = mask.bitmap
        np.testing.assert_array_equal(whole, objects == value)
    assert annotations.areas.tolist() == [(objects == 1).sum(), (objects == 2).sum()]


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        (np.full((20, 30), 3, np.uint8), "Object/a.png' has the value 3, but its annotation lists 2 objects"),
        (np.zeros((5, 6), np.uint8), "a.png' is 6 wide and 5 high, but its annotation declares 30 wide"),
    ],
)  # fmt: skip
def test_bad_object_masks(objects: np.ndarray, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    write_masks(tmp_path, masks_of_a()[0], objects)
    with pytest.raises(ValueError, match=message):
        VocData(tmp_path, masks=True).split("train")


def test_class_masks(tmp_path: Path) -> None:
    write(tmp_path)
    classes, _ = masks_of_a()
    write_masks(tmp_path, *masks_of_a())
    source = VocData(tmp_path).with_class_maps()
    assert source.class_names == ["background", *VOC_CLASSES]
    assert source.class_names[12] == "dog" and source.class_names[8] == "cat"
    annotations = source.split("train").annotations
    found = annotations.target(0).class_map
    assert found is not None
    np.testing.assert_array_equal(found, classes)
    assert set(np.unique(found)) == {8, 12, IGNORE_LABEL}
    with pytest.raises(ValueError, match="a.png' has the value 12 .* none of the 3 classes"):
        VocData(tmp_path, classes=["cat", "dog"]).with_class_maps().split("train").annotations.target(0)


def test_class_masks_that_are_missing(tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises(
        FileNotFoundError, match="has no class masks.*SegmentationClass'; add them, or .*task=detection"
    ):
        VocData(tmp_path).with_class_maps().split("train")
    write_masks(tmp_path, *masks_of_a())
    with pytest.raises(
        FileNotFoundError, match=r"no list of images '.*Segmentation/test.txt' \(there are train, val\)"
    ):
        VocData(tmp_path).with_class_maps().split("test")
    (tmp_path / "SegmentationClass/a.png").unlink()
    with pytest.raises(FileNotFoundError, match="1 of 1 images have no mask: 'a.jpg'"):
        VocData(tmp_path).with_class_maps().split("train")


def test_bad_settings(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data.on_invalid=skip is unknown"):
        VocData(write(tmp_path), on_invalid="skip")  # type: ignore[arg-type]
    assert len(VocData(tmp_path, max_images=1).split("train")) == 1


@pytest.mark.skipif(not (DATA / "bccd").is_dir(), reason="needs the real blood smears (VERTEBRA_DATA)")
def test_blood_smears() -> None:
    """4,888 boxes as its description says, two of them degenerate, in the training and validation lists."""
    with pytest.raises(ValueError, match=r"2 of 3943 .*BloodImage_00343.jpg.*BloodImage_00338.jpg"):
        VocData(DATA / "bccd").split("train")
    source = VocData(DATA / "bccd", on_invalid="drop")
    assert source.class_names == ["Platelets", "RBC", "WBC"]
    splits = [source.split(name) for name in ("train", "val", "test")]
    assert [len(split) for split in splits] == [205, 87, 72]
    assert sum(len(split.annotations.boxes) for split in splits) == 4888 - 2


@pytest.mark.parametrize("name", ["classes.txt", "ImageSets/Main/train.txt"])
def test_lists_behind_links_that_lead_outside_are_not_read(name: str, tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    (tmp_path / "secret").write_text("a\nb\n")
    (root / name).unlink(missing_ok=True)
    (root / name).symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=rf"{name}' leads out of the data set"):
        VocData(root).split("train")
    VocData(root, allow_outside=True)
