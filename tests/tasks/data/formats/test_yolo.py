"""YOLO's layouts: boxes and polygons, both arrangements of folders, and what may be wrong."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.data.formats.raw import positions
from tasks.data.formats.yolo import YoloData
from tasks.data.quality.issues import NO_MASK
from tasks.data.quality.report import examine
from tasks.preprocessing import Preprocessing
from tests.tasks.data.coco_on_disk import picture, save_rotated
from tests.tasks.data.defects_on_disk import texture

BOXES = "1 0.5 0.5 0.2 0.4\n0 0.1 0.25 0.2 0.5\n\n"
POLYGON = "0 0.1 0.1 0.6 0.1 0.6 0.8\n"


def write(root: Path, pattern: str = "{kind}/{split}", names: str = "[cat, dog]") -> Path:
    """Three images, 40 wide and 20 high, in train and one in val; `pattern` arranges the folders."""
    for split, stems in (("train", ["a", "deep/b", "empty"]), ("val", ["c"])):
        images, labels = (root / pattern.format(kind=k, split=split) for k in ("images", "labels"))
        for index, stem in enumerate(stems):
            for folder in (images, labels):
                (folder / stem).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(texture(index + len(split), 20, 40)).save(images / f"{stem}.png")
        for stem in stems:
            if stem != "empty":
                (labels / f"{stem}.txt").write_text(POLYGON if stem == "deep/b" else BOXES)
    places = "\n".join(f"{s}: {pattern.format(kind='images', split=s)}" for s in ("train", "val"))
    (root / "data.yaml").write_text(f"path: /nowhere/else\n{places}\nnc: 2\nnames: {names}\n")
    return root


@pytest.mark.parametrize("pattern", ["{kind}/{split}", "{split}/{kind}"])
@pytest.mark.parametrize("names", ["[cat, dog]", "{0: cat, 1: dog}", "\n- cat\n- dog"])
def test_both_layouts(tmp_path: Path, pattern: str, names: str) -> None:
    source = YoloData(write(tmp_path, pattern, names))
    assert source.class_names == ["cat", "dog"]
    assert source.category_ids.tolist() == [0, 1]
    split = source.split("train")
    found = split.annotations
    assert [found.file_name(i) for i in range(3)] == ["a.png", "deep/b.png", "empty.png"]
    assert found.offsets.tolist() == [0, 2, 3, 3]
    assert found.labels.tolist() == [1, 0, 0]
    assert found.ids.tolist() == [1, 2, 3]
    np.testing.assert_allclose(found.boxes, [[16, 6, 8, 8], [0, 0, 8, 10], [4, 2, 20, 14]])
    np.testing.assert_allclose(found.areas, [64, 80, 140])  # half of its box is the triangle's
    assert split.image(1).shape == (20, 40, 3)
    assert len(source.split("val")) == 1


def test_polygons_become_masks(tmp_path: Path) -> None:
    found = YoloData(write(tmp_path), masks=True).split("train").annotations
    assert found.segmentation(0) is None
    np.testing.assert_allclose(found.segmentation(2), [[4, 2, 24, 2, 24, 16]])
    masks = found.target(1).masks
    assert masks is not None and 0.4 < masks[0].bitmap.mean() < 0.6
    assert YoloData(tmp_path).with_class_maps().class_names == ["background", "cat", "dog"]


def test_a_list_of_files_and_several_folders(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "list.txt").write_text("./images/train/a.png\nimages/val/c.png\n")
    (tmp_path / "data.yaml").write_text(
        "train: list.txt\nval: [images/train/deep, images/val]\nnames: [cat, dog]"
    )
    source = YoloData(tmp_path, check_images="none")
    train, val = (source.split(name).annotations for name in ("train", "val"))
    assert [train.file_name(i) for i in range(2)] == ["images/train/a.png", "images/val/c.png"]
    assert [val.file_name(i) for i in range(2)] == ["images/train/deep/b.png", "images/val/c.png"]
    assert val.offsets.tolist() == [0, 1, 3]


def test_turned_images_count_upright(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "images/train/a.png").unlink()
    save_rotated(tmp_path / "images/train/a.jpg", picture(40, 20))
    found = YoloData(tmp_path).split("train").annotations
    assert found.sizes[0].tolist() == [40, 20]
    np.testing.assert_allclose(found.boxes[0], [8, 12, 4, 16])


LABELS = {
    "5 0.5 0.5 0.2 0.2": ("undeclared category", None),
    "cat 0.5 0.5 0.2 0.2": ("undeclared category", None),
    "1 0.5 0.5 0.2": ("wrong number of columns", None),
    "1 0.5 0.5 0.2 x": ("not finite", None),
    "1 0.5 0.5 nan 0.2": ("not finite", None),
    "1 0.5 0.5 0 0.2": ("degenerate box", None),
    "1 0.9 0.5 0.4 0.2": ("box outside image", [28, 8, 12, 4]),
    "1 0.1 0.5 0.4 0.2": ("negative coordinates", [0, 8, 12, 4]),
    "1 20 10 8 4": ("box not normalised", [16, 8, 8, 4]),
    "1 4 2 24 2 24 16": ("box not normalised", [4, 2, 20, 14]),
    "1 0.1 0.1 0.6 0.1 0.6 0.8 0.5": ("polygon of odd count", None),
    "1 0.1 0.1 0.6 0.1 0.6 inf": ("not finite", None),
    "0 0.1 0.25 0.2 0.5": ("duplicate annotation", None),
}


@pytest.mark.parametrize("line", LABELS)
def test_bad_labels_are_named_and_mended(tmp_path: Path, line: str) -> None:
    write(tmp_path)
    issue, fixed = LABELS[line]
    (tmp_path / "labels/train/a.txt").write_text(BOXES + line + "\n")
    (tmp_path / "labels/train/deep/b.txt").unlink()  # or boxes would be the objects without a mask
    report = examine(YoloData(tmp_path), Preprocessing(short_side=20, max_size=40))
    (found,) = (finding for finding in report.findings if finding.issue is not NO_MASK)
    assert (found.issue.name, found.split, found.image_id, found.annotation_id) == (issue, "train", 0, 3)
    source = YoloData(tmp_path, on_invalid="fix", masks=True).split("train").annotations
    boxes = source.boxes[source.offsets[0] : source.offsets[1]]
    assert len(boxes) == 2 + (fixed is not None)
    if fixed is not None:
        np.testing.assert_allclose(boxes[2], fixed)
    if line == "1 4 2 24 2 24 16":
        np.testing.assert_allclose(source.segmentation(2), [[4, 2, 24, 2, 24, 16]])


def test_bad_files_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "labels/train/a.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "images/train/deep/b.png").write_text("no picture")
    found = examine(YoloData(tmp_path), Preprocessing(short_side=20, max_size=40)).findings
    assert [(f.issue.name, f.file_name) for f in found if f.image_id is not None] == [
        ("annotation unreadable", "a.png"),
        ("file unreadable", "deep/b.png"),
    ]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "data.yaml").unlink(), "there is no '.*data.yaml', which says where .*data.root="),
        (lambda r: (r / "data.yaml").write_text("names: [a"), "is no YAML that can be read"),
        (lambda r: (r / "data.yaml").write_text("train: images"), "has no 'names'"),
        (lambda r: (r / "data.yaml").write_text("names: {1: a}"), r"numbers its names \[1\]; wanted 0, 1"),
        (lambda r: (r / "data.yaml").write_text("names: [a, a]"), "names a class twice: a, a"),
        (lambda r: (r / "data.yaml").write_text("names: [a]"), "has no train split; say where"),
        (lambda r: (r / "data.yaml").write_text("names: [a]\ntrain: gone"), "gone', the place of train in data.yaml"),
        (lambda r: (r / "data.yaml").write_text("names: [a]\ntrain: labels"), "'labels', holds no images"),
    ],
)  # fmt: skip
def test_damaged_data_sets(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        YoloData(tmp_path).split("train")
    assert "\n" not in str(caught.value)


def test_positions() -> None:
    assert positions(np.array([7, 3, 7]), np.array([3, 7, 5])).tolist() == [1, 0, -1]
    assert positions(np.array([], np.int64), np.array([3])).tolist() == [-1]
