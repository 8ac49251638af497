import json
import os
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from tasks.data.formats.coco import CocoData
from tests.tasks.data.coco_on_disk import ROTATED, picture, train_content


def real_root() -> Path:
    return Path(os.environ.get("VERTEBRA_DATA", Path(__file__).parents[4] / "../shared/data")) / "coco446"


def test_labels_follow_ascending_category_ids(coco_root: Path) -> None:
    source = CocoData(coco_root)
    assert source.class_names == ["ant", "cat", "zebra"]
    assert source.category_ids.tolist() == [3, 17, 90]


def test_images_stay_in_file_order_and_those_without_objects_stay(coco_root: Path) -> None:
    annotations = CocoData(coco_root).split("train").annotations
    assert annotations.image_ids.tolist() == [700, 12, 5, 900]
    assert annotations.offsets.tolist() == [0, 2, 3, 3, 4]
    assert annotations.ids.tolist() == [8, 9, 10, 31]
    assert annotations.labels.tolist() == [1, 0, 0, 2]
    empty = annotations.target(2)
    assert empty.image_id == 5
    assert empty.boxes.shape == (0, 4)
    assert empty.boxes.dtype == np.float32
    assert empty.labels.dtype == np.int64


def test_target_is_clipped_but_the_annotations_are_exact(coco_root: Path) -> None:
    annotations = CocoData(coco_root).split("train").annotations
    target = annotations.target(0)
    assert target.original_size == (40, 60)
    assert target.is_crowd.tolist() == [True, False]
    np.testing.assert_array_equal(target.boxes[0], [10, 5, 50, 20])
    np.testing.assert_array_equal(target.boxes[1], np.float32([0, 0.1 + 0.2, 60, 40]))
    assert annotations.boxes[1].tolist() == [-0.4, 0.1 + 0.2, 60.7, 39.9]


# pycocotools 2.0.11 decodes into an array class that numpy 2 finds old-fashioned.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("masks", [False, True])
def test_round_trip_is_exact(coco_root: Path, masks: bool) -> None:
    content = json.loads(json.dumps(CocoData(coco_root, masks=masks).split("train").annotations.to_coco()))
    written = train_content()
    assert content["images"] == written["images"]
    assert content["categories"] == sorted(written["categories"], key=lambda category: category["id"])
    by_id = {annotation["id"]: annotation for annotation in content["annotations"]}
    assert len(by_id) == len(written["annotations"])
    for annotation in written["annotations"]:
        segmentation = annotation.pop("segmentation", None)
        found = by_id[annotation["id"]].pop("segmentation", None)
        assert by_id[annotation["id"]] == annotation
        if not masks or segmentation is None:
            assert found is None
        elif isinstance(segmentation, list) or isinstance(segmentation["counts"], str):
            assert found == segmentation
        else:  # uncompressed run lengths come back compressed: the same mask
            mask = np.zeros((40, 60), np.uint8)
            mask[5:20, 10:50] = 1
            np.testing.assert_array_equal(coco_mask.decode(found), mask)


def test_select_takes_images_with_their_objects(coco_root: Path) -> None:
    annotations = CocoData(coco_root, masks=True).split("train").annotations
    chosen = annotations.select(np.array([3, 2, 0]))
    assert chosen.image_ids.tolist() == [900, 5, 700]
    assert chosen.offsets.tolist() == [0, 1, 1, 3]
    assert chosen.ids.tolist() == [31, 8, 9]
    for new, old in enumerate([3, 0, 1]):
        assert chosen.segmentation(new) == annotations.segmentation(old)


def test_max_images_keeps_the_first(coco_root: Path) -> None:
    (coco_root / "train2017" / "bäume.png").unlink()  # the fourth: not asked for, not missed
    split = CocoData(coco_root, max_images=2).split("train")
    assert len(split) == 2
    assert split.annotations.ids.tolist() == [8, 9, 10]


def test_images_are_upright_rgb(coco_root: Path) -> None:
    split = CocoData(coco_root).split("train")
    for index, (height, width) in enumerate([(40, 60), (50, 30), (32, 32), (40, 60)]):
        image = split.image(index)
        assert image.shape == (height, width, 3)
        assert image.dtype == np.uint8
    turned = split.image(1).astype(int)
    assert split.annotations.file_name(1) == ROTATED
    assert np.abs(turned - picture(50, 30)).max() < 12  # JPEG, at quality 95
    np.testing.assert_array_equal(split.image(3), picture(40, 60))


def test_other_layouts_by_naming_files(coco_root: Path, tmp_path: Path) -> None:
    (coco_root / "val2017").rename(coco_root / "pictures")
    (coco_root / "annotations/instances_val2017.json").rename(coco_root / "val.json")
    source = CocoData(
        str(coco_root),
        train_images=None,
        train_annotations=None,
        val_images="pictures",
        val_annotations="val.json",
        test_images=str(coco_root / "pictures"),
        test_annotations=str(coco_root / "val.json"),
    )
    assert source.class_names == ["ant", "cat", "zebra"]
    assert len(source.split("val")) == len(source.split("test")) == 2
    assert source.split("val") is source.split("val")


def test_a_split_is_read_only_when_asked_for(coco_root: Path) -> None:
    (coco_root / "annotations/instances_train2017.json").unlink()
    source = CocoData(coco_root)
    assert len(source.split("val")) == 2
    assert source.class_names == ["ant", "cat", "zebra"]


def test_a_missing_area_is_that_of_the_box(coco_root: Path) -> None:
    path = coco_root / "annotations/instances_val2017.json"
    content = json.loads(path.read_text())
    del content["annotations"][0]["area"]
    path.write_text(json.dumps(content))
    assert CocoData(coco_root).split("val").annotations.areas.tolist() == [12.0]


@pytest.mark.skipif(
    not real_root().is_dir(), reason="no real COCO data here; name its folder in VERTEBRA_DATA"
)
@pytest.mark.parametrize("name", ["train", "val"])
def test_real_coco_equals_pycocotools(name: str) -> None:
    split = CocoData(real_root(), masks=True).split(name)  # type: ignore[arg-type]
    reference = COCO(real_root() / f"annotations/instances_{name}2017.json")
    content = split.annotations.to_coco()
    found = {annotation["id"]: annotation for annotation in content["annotations"]}
    assert found.keys() == reference.anns.keys()
    for annotation_id, annotation in reference.anns.items():
        for key in ("bbox", "area", "iscrowd", "category_id", "image_id"):
            assert found[annotation_id][key] == annotation[key]
        if isinstance(annotation["segmentation"], list):
            assert found[annotation_id]["segmentation"] == annotation["segmentation"]
        else:
            assert coco_mask.area(found[annotation_id]["segmentation"]) == coco_mask.area(
                reference.annToRLE(annotation)
            )
    assert [image["id"] for image in content["images"]] == list(reference.imgs)
    for index in range(0, len(split), 20):
        target = split.annotations.target(index)
        assert split.image(index).shape[:2] == target.original_size
        assert len(target.boxes) == len(reference.getAnnIds(imgIds=[target.image_id]))
