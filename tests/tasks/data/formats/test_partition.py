"""One piece into train, val and test: shares, classes, groups, seeds, in every format."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.cli.compose import compose
from tasks.data.formats.coco import CocoData
from tasks.data.formats.convert import Split, convert
from tasks.data.formats.image_folder import ImageFolderData
from tasks.data.formats.splitting import assign, group_keys, parse_splitting
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tests.tasks.data.defects_on_disk import texture

NUM_IMAGES = 40


def write(root: Path) -> Path:
    """Forty images of ten patients, every tenth with a rare class beside the usual one."""
    (root / "images").mkdir()
    images, annotations = [], []
    for index in range(NUM_IMAGES):
        file = f"patient{index // 4}_{index % 4}.png"
        Image.fromarray(texture(index, 16, 24)).save(root / "images" / file)
        images.append({"id": 100 + index, "file_name": file, "height": 16, "width": 24})
        for category in [1] if index % 10 else [1, 2]:
            box = [category, 2, 10, 10]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": 100 + index, "category_id": category, "bbox": box}
            )
    categories = [{"id": 1, "name": "cell"}, {"id": 2, "name": "rare"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "all.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("whole"))


def coco(root: Path, split: Any = "0.5/0.25/0.25", **options: Any) -> CocoData:
    return CocoData(root, train_images="images", train_annotations="all.json", split=split, **options)


def files(source: Any) -> dict[str, list[str]]:
    names = [n for n in ("train", "val", "test") if source.splitting.has_split(n)]
    return {
        name: [source.split(name).annotations.file_name(i) for i in range(len(source.split(name)))]
        for name in names
    }


def test_every_image_is_in_one_split_and_classes_are_shared_out(root: Path) -> None:
    source = coco(root)
    parts = files(source)
    assert [len(part) for part in parts.values()] == [20, 10, 10]
    assert sorted(file for part in parts.values() for file in part) == sorted(
        path.name for path in (root / "images").iterdir()
    )
    rare = [int((source.split(n).annotations.labels == 1).sum()) for n in ("train", "val", "test")]
    assert rare == [2, 1, 1]
    train = source.split("train")
    assert train.image(0).shape == (16, 24, 3)
    assert train.annotations.image_ids.tolist() == sorted(train.annotations.image_ids.tolist())


def test_groups_stay_together(root: Path) -> None:
    parts = files(coco(root, group_pattern=r"(patient\d+)_"))
    patients = [{file.split("_")[0] for file in part} for part in parts.values()]
    assert not (patients[0] & patients[1] or patients[0] & patients[2] or patients[1] & patients[2])
    assert [len(part) for part in parts.values()] == [20, 12, 8]  # of ten whole patients, four images each


def test_seeds(root: Path) -> None:
    first = files(coco(root))
    assert files(coco(root)) == first
    assert files(coco(root, split_seed=1)) != first
    content = json.loads((root / "all.json").read_text())
    content["images"].reverse()
    (root / "reversed.json").write_text(json.dumps(content))
    turned = CocoData(root, train_images="images", train_annotations="reversed.json", split="0.5/0.25/0.25")
    assert {name: sorted(part) for name, part in files(turned).items()} == {
        name: sorted(part) for name, part in first.items()
    }


def test_every_format_parts_itself(root: Path, tmp_path: Path) -> None:
    whole = CocoData(root, train_images="images", train_annotations="all.json").split("train")
    splits = [Split("train", whole.folder, whole.annotations)]
    for to in ("voc", "yolo"):
        convert(splits, to, tmp_path / to)
    (tmp_path / "voc/ImageSets/Main/train.txt").unlink()
    parts = []
    for source in (VocData(tmp_path / "voc", split="8/1/1"), YoloData(tmp_path / "yolo", split="8/1/1")):
        assert source.class_names == ["cell", "rare"]
        parts.append(files(source))
        assert [len(part) for part in parts[-1].values()] == [32, 4, 4]
        assert sum((source.split(n).annotations.labels == 1).sum() for n in ("train", "val", "test")) == 4
    assert parts[0] == parts[1]
    assert parts[0] == files(coco(root, "0.8/0.1/0.1"))
    assert len(YoloData(tmp_path / "yolo", split="8/1/1", max_images=3).split("train")) == 3


def test_class_folders_part_themselves(tmp_path: Path) -> None:
    for index in range(30):
        folder = tmp_path / ("cat" if index % 3 else "dog")
        folder.mkdir(exist_ok=True)
        Image.fromarray(texture(index, 8, 8)).save(folder / f"{index}.png")
    source = ImageFolderData(tmp_path, split="0.6/0.4")
    train, val = (source.split(name).annotations for name in ("train", "val"))
    assert np.bincount(train.labels).tolist() == [12, 6]
    assert np.bincount(val.labels).tolist() == [8, 4]
    assert source.split("val").image(0).shape == (8, 8, 3)
    with pytest.raises(ValueError, match=r"data\.split=0\.6/0\.4 leaves nothing for the test split"):
        source.split("test")


def test_assignment_by_hand() -> None:
    counts = np.array(
        [[1, 1], [1, 1], [1, 1], [1, 1], [0, 1], [0, 1], [0, 1], [0, 1]], float
    )  # one class, images
    found = assign(counts, np.array([0.5, 0.5]), seed=0)
    assert np.bincount(found[:4]).tolist() == [2, 2]
    assert np.bincount(found[4:]).tolist() == [2, 2]


def test_groups_of_a_pattern() -> None:
    assert group_keys(["a1", "a2", "x"], r"a") == ["group a", "group a", "file x"]
    assert group_keys(["a1", "b1"], r"\w(\d)") == ["group 1", "group 1"]
    with pytest.raises(ValueError, match=r"group_pattern=z matches none of the 1 files \('a1', …\)"):
        group_keys(["a1"], "z")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("0.8", None), "data.split=0.8 is not understood; wanted the shares"),
        (("0.8/x", None), "data.split=0.8/x is not understood"),
        (("1/0/0", None), "data.split=1/0/0 is not understood"),
        (("1/1/1/1", None), "is not understood"),
        (("1/1", "("), r"data.group_pattern=\( is no regular expression"),
        ((None, "a"), "data.group_pattern= keeps images together in data.split=; give that too"),
    ],
)
def test_bad_settings(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_splitting(*arguments, 0)


def test_too_few_groups(root: Path) -> None:
    with pytest.raises(
        ValueError, match="leaves no image for test of 40 in 2 groups; give it a larger share"
    ):
        coco(root, "0.5/0.4/0.1", group_pattern=r"_(?:[01]()|[23])").split("test")


def test_on_the_command_line() -> None:
    config = compose(
        "train", ["data=coco", "data.root=x", "data.split=0.8/0.1/0.1", r"data.group_pattern=p(\d+)"]
    )
    assert config.data.split == "0.8/0.1/0.1"
    assert config.data.group_pattern == r"p(\d+)"
