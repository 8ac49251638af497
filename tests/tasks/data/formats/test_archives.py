"""Data sets of every format that lie in a tar or zip file, as a whole or their images alone, are what they were."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.data.formats.coco import CocoData
from tasks.data.formats.convert import Split, convert
from tasks.data.formats.mask_png import MaskPngData
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tests.tasks.data.formats import test_mask_png, test_voc, test_yolo
from tests.tasks.data.loading.test_stores import pack

FORMATS: dict[str, tuple[Callable[[Path], Path], Callable[..., Any]]] = {
    "voc": (test_voc.write, VocData),
    "yolo": (test_yolo.write, YoloData),
    "mask_png": (test_mask_png.write, MaskPngData),
}


def assert_same(packed: Any, plain: Any) -> None:
    assert packed.class_names == plain.class_names
    for name in ("train", "val"):
        found, expected = packed.split(name), plain.split(name)
        assert len(found) == len(expected) > 0
        for index in range(len(expected)):
            np.testing.assert_array_equal(found.image(index), expected.image(index))
            mine, other = found.annotations.target(index), expected.annotations.target(index)
            for field in fields(other):
                np.testing.assert_equal(getattr(mine, field.name), getattr(other, field.name))


@pytest.mark.parametrize("ending", [".tar", ".zip"])
@pytest.mark.parametrize("top", ["", "deep/down"])
@pytest.mark.parametrize("format", FORMATS)
def test_a_whole_data_set(tmp_path: Path, format: str, top: str, ending: str) -> None:
    write, source = FORMATS[format]
    root = write(tmp_path / "plain")
    pack(root, tmp_path / f"all{ending}", top=top)
    assert_same(source(tmp_path / f"all{ending}" / top), source(root))


def test_images_alone_in_vocs_layout(tmp_path: Path) -> None:
    root = test_voc.write(tmp_path)
    pack(root / "JPEGImages", root / "images.zip", top="JPEGImages")
    assert_same(VocData(root, images="images.zip/JPEGImages"), VocData(root))
    assert len(VocData(root, images="images.zip/JPEGImages", split="0.5/0.5").split("train")) > 0


@pytest.mark.parametrize("archive", ["images.tar", "images/train.zip"])
def test_images_alone_in_yolos_layout(tmp_path: Path, archive: str) -> None:
    root = test_yolo.write(tmp_path)
    plain = YoloData(root)
    assert plain.split("train").annotations.boxes.size  # read before the words below change
    if archive == "images.tar":
        pack(root / "images", root / archive, top="images")
        places = "train: images.tar/images/train\nval: images.tar/images/val\n"
    else:
        pack(root / "images/train", root / archive)
        places = "train: images/train.zip\nval: images/val\n"
    (root / "data.yaml").write_text(f"{places}names: [cat, dog]\n")
    assert_same(YoloData(root), plain)


def test_images_and_masks_in_two_archives(tmp_path: Path) -> None:
    root = test_mask_png.write(tmp_path)
    for kind in ("images", "masks"):
        pack(root / kind, root / f"{kind}.zip")
    places = {
        f"{split}_{kind}": f"{kind}.zip/{split}" for split in ("train", "val") for kind in ("images", "masks")
    }
    assert_same(MaskPngData(root, **places), MaskPngData(root))
    with pytest.raises(FileNotFoundError, match=r"'.*images.zip/nowhere' is no folder; name it with"):
        MaskPngData(root, train_images="images.zip/nowhere").split("train")


@pytest.mark.parametrize("place", ["all.zip/ImageSets", "all.zip/nowhere"])
def test_what_is_no_such_layout(tmp_path: Path, place: str) -> None:
    pack(test_voc.write(tmp_path / "plain"), tmp_path / "all.zip")
    with pytest.raises(FileNotFoundError, match="not in Pascal VOC's layout: there is no folder"):
        VocData(tmp_path / place)
    with pytest.raises(FileNotFoundError, match=r"there is no '.*data.yaml', which says"):
        YoloData(tmp_path / place)


def test_conversion_takes_images_out_of_an_archive(coco_root: Path, tmp_path: Path) -> None:
    pack(coco_root / "train2017", coco_root / "images.zip")
    source = CocoData(coco_root, train_images="images.zip")
    split = source.split("train")
    convert([Split("train", coco_root / "images.zip", split.annotations)], "coco", tmp_path / "out")
    again = CocoData(tmp_path / "out").split("train")
    for index in range(len(split)):
        np.testing.assert_array_equal(again.image(index), split.image(index))
