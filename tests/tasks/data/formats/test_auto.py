"""Data in a folder is read by its layout alone: what it is called, how much of it there is, classes and boxes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tasks.data
from tasks.cli.compose import compose
from tasks.cli.data import data_of
from tasks.data.formats.convert import Split, convert
from tasks.data.formats.object_files import ObjectFiles
from tasks.data.layouts.auto import describe
from tasks.data.quality.issues import NO_MASK
from tasks.data.quality.report import examine
from tasks.preprocessing import Preprocessing
from tests.commands import command
from tests.tasks.data.formats import layouts
from tests.tasks.data.formats.layouts import MASKS, NAMES, WITH_SPLITS, WITHOUT_SPLITS, Picture
from tests.tasks.data.loading.test_stores import pack

TOLERANCE = 0.5


def objects_of(source: Any, names: tuple[str, ...]) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Class and box of each object, by the stem of the picture."""
    found = {}
    for name in names:
        split = source.split(name)
        for index in range(len(split)):
            annotations = split.annotations
            rows = range(annotations.offsets[index], annotations.offsets[index + 1])
            found[Path(annotations.file_name(index)).stem] = [
                (annotations.class_names[annotations.labels[row]], annotations.boxes[row]) for row in rows
            ]
            assert split.image(index).shape == (layouts.HEIGHT, layouts.WIDTH, 3)
    return found


def assert_objects(found: dict[str, list[tuple[str, np.ndarray]]], given: list[Picture]) -> None:
    assert sorted(found) == sorted(p.stem for p in given)
    for p in given:
        assert [name for name, _ in found[p.stem]] == [name for name, _ in p.objects]
        for (_, box), (_, wanted) in zip(found[p.stem], p.objects, strict=True):
            np.testing.assert_allclose(box, wanted, atol=TOLERANCE)


@pytest.mark.parametrize("layout", WITH_SPLITS)
def test_a_layout_with_splits(layout: str, tmp_path: Path) -> None:
    write, words = WITH_SPLITS[layout]
    given = layouts.pictures()
    write(tmp_path, given)
    source = tasks.data.open(tmp_path)
    for split in ("train", "val", "test"):
        of = [p for p in given if p.split == split]
        assert_objects(objects_of(source, (split,)), of)
    assert tuple(source.class_names) == NAMES
    assert describe(source) == f"{words}: train 6, val 3, test 2 images; 2 classes (cat, dog)"


ONE_FOLDER = ("coco_two_files", "voc_own")
"""Layouts whose pictures lie together, where names cannot repeat."""


@pytest.mark.parametrize("layout", [name for name in WITH_SPLITS if name not in ONE_FOLDER])
def test_names_may_be_the_same_in_every_split(layout: str, tmp_path: Path) -> None:
    given = layouts.numbered_anew(layouts.pictures())
    WITH_SPLITS[layout][0](tmp_path, given)
    source = tasks.data.open(tmp_path)
    for split in ("train", "val", "test"):
        assert_objects(objects_of(source, (split,)), [p for p in given if p.split == split])


@pytest.mark.parametrize("layout", WITHOUT_SPLITS)
def test_a_layout_without_splits_is_split(layout: str, tmp_path: Path) -> None:
    write, words = WITHOUT_SPLITS[layout]
    given = layouts.whole()
    write(tmp_path, given)
    source = tasks.data.open(tmp_path)
    assert_objects(objects_of(source, ("train", "val")), given)
    assert tuple(source.class_names) == NAMES
    assert [len(source.split(name)) for name in ("train", "val")] == [8, 2]
    assert describe(source) == (
        f"{words}: train 8, val 2 images; 2 classes (cat, dog); no splits of its own: split 0.8/0.2 into train and "
        "val, by class and near copies together (data.split=, data.group_pattern=)"
    )


@pytest.mark.parametrize(
    "layout", ["roboflow_yolo", "roboflow_coco", "voc_own", "labelme_sibling", "open_images", "cvat_splits"]
)
def test_an_archive_reads_as_its_folder(layout: str, tmp_path: Path) -> None:
    given = layouts.pictures()
    WITH_SPLITS[layout][0](tmp_path / "plain", given)
    pack(tmp_path / "plain", tmp_path / "all.zip", top="export")
    source = tasks.data.open(tmp_path / "all.zip")
    assert_objects(objects_of(source, ("train", "val", "test")), given)


@pytest.mark.parametrize(
    "layout", ["xml_beside", "labelme_beside", "cvat", "label_studio", "csv_torchvision", "yolo_sibling"]
)
def test_the_doctor_and_the_converter_take_it(layout: str, tmp_path: Path) -> None:
    given = layouts.whole()
    WITHOUT_SPLITS[layout][0](tmp_path / "data", given)
    source = tasks.data.open(tmp_path / "data")
    assert isinstance(source, ObjectFiles)
    found = [f for f in examine(source, Preprocessing()).findings if f.issue.severity == "error"]
    assert not [f for f in found if f.issue is not NO_MASK]  # some objects are boxes, others polygons
    names = ("train", "val")
    splits = [Split(n, source.image_folder(n), source.split(n).annotations, source.reading) for n in names]
    convert(splits, "coco", tmp_path / "out")
    assert_objects(objects_of(tasks.data.open(tmp_path / "out"), names), given)


@pytest.mark.parametrize("again", [False, True], ids=["names of their own", "numbers in each split"])
@pytest.mark.parametrize("layout", MASKS)
def test_a_layout_of_masks(layout: str, again: bool, tmp_path: Path) -> None:
    write, words, num_classes, (cat, dog), other = MASKS[layout]
    given = layouts.pictures({"train": 3, "val": 2})
    given = layouts.numbered_anew(given) if again else given
    write(tmp_path, given)
    source = tasks.data.open(tmp_path, task="semantic_segmentation")
    assert describe(source).startswith(f"{words}: train 3, val 2 images; {num_classes} classes")
    for split in ("train", "val"):
        annotations = source.split(split).annotations
        wanted = {p.stem: layouts.mask(p, other, {"cat": cat, "dog": dog}) for p in given if p.split == split}
        for index in range(len(annotations)):
            stem = next(s for s in wanted if s in annotations.file_name(index))
            np.testing.assert_array_equal(annotations.read(index), wanted.pop(stem))
        assert not wanted


def test_masks_of_two_values_are_split_by_class(tmp_path: Path) -> None:
    given = layouts.whole()
    layouts.binary(tmp_path, given)
    source = tasks.data.open(tmp_path)
    assert source.class_names == ["background", "foreground"]
    assert [len(source.split(n)) for n in ("train", "val")] == [8, 2]
    assert "masks of two values, 0 and 255: background and foreground; no splits of its own" in describe(
        source
    )
    assert set(np.unique(source.split("train").annotations.read(0))) == {0, 1}


@pytest.mark.parametrize("val", ["val", "valid", "test"])
def test_folders_of_classes(tmp_path: Path, val: str) -> None:
    given = layouts.pictures({"train": 6, "val": 4})
    layouts.class_folders(tmp_path, given, val=val)
    source = tasks.data.open(tmp_path, task="classification")
    assert [len(source.split(n)) for n in ("train", "val")] == [6, 4]
    assert tuple(source.class_names) == NAMES
    assert not source.has_split("test")


def test_folders_of_classes_without_splits(tmp_path: Path) -> None:
    for p in layouts.whole(20):
        layouts.save_picture(tmp_path / p.objects[0][0] / p.file, p)
    source = tasks.data.open(tmp_path)
    assert [len(source.split(n)) for n in ("train", "val")] == [16, 4]
    assert np.bincount(source.split("val").annotations.labels).tolist() == [2, 2]


def test_near_copies_and_groups_stay_together(tmp_path: Path) -> None:
    given = layouts.whole(12)
    layouts.xml_beside(tmp_path, given)
    for index in range(0, 12, 2):  # each pair is one picture, the second compressed harder
        image = Image.open(tmp_path / f"img_{index}.jpg")
        image.save(tmp_path / f"img_{index + 1}.jpg", quality=60)
    found = tasks.data.open(tmp_path)
    parts = [{int(s[4:]) // 2 for s in objects_of(found, (n,))} for n in ("train", "val")]
    assert not parts[0] & parts[1]
    (tmp_path / "groups.csv").write_text(
        "image,group\n" + "".join(f"img_{i}.jpg,{i // 6}\n" for i in range(12))
    )
    grouped = tasks.data.open(tmp_path, split="0.5/0.5")
    parts = [{int(s[4:]) // 6 for s in objects_of(grouped, (n,))} for n in ("train", "val")]
    assert [len(part) for part in parts] == [1, 1]
    assert "groups by groups.csv" in describe(grouped)


def test_one_file_chooses_among_several(tmp_path: Path) -> None:
    given = layouts.whole()
    layouts.coco_beside_images(tmp_path, given)
    layouts.write(tmp_path / "other.json", layouts.coco_content(given[:3]))
    with pytest.raises(
        ValueError, match=r"2 files \(labels.json, other.json\) could be the annotations; choose one"
    ):
        tasks.data.open(tmp_path)
    source = tasks.data.open(tmp_path / "labels.json")
    assert_objects(objects_of(source, ("train", "val")), given)


def test_two_layouts_at_once(tmp_path: Path) -> None:
    given = layouts.whole()
    layouts.xml_beside(tmp_path, given)
    layouts.yolo_beside(tmp_path, given)
    with pytest.raises(
        ValueError,
        match=r"can be read as VOC's XML files, beside the pictures \(data.format=xml\) and as YOLO's text files, .*"
        r"choose one with data.format=xml or data.format=yolo",
    ):
        tasks.data.open(tmp_path)
    for format in ("xml", "yolo"):
        assert_objects(objects_of(tasks.data.open(tmp_path, format=format), ("train", "val")), given)


def test_what_fits_no_layout(tmp_path: Path) -> None:
    def message() -> str:
        with pytest.raises((ValueError, FileNotFoundError)) as caught:
            tasks.data.open(tmp_path)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    with pytest.raises(FileNotFoundError, match="does not exist; give the folder"):
        tasks.data.open(tmp_path / "nowhere")
    assert "is empty; wanted COCO: a JSON file" in message()
    for p in layouts.whole(3):
        layouts.save_picture(tmp_path / p.file, p)
    assert (
        f"has 3 pictures and no labels (it holds 3 .jpg): to find objects in them with a trained model, use predict: "
        f"vertebra predict checkpoint=… source={tmp_path}" in message()
    )
    (tmp_path / "notes.csv").write_text("a,b\n1,2\n")
    assert "fits no layout that is known: it holds 3 .jpg, 1 .csv; wanted COCO" in message()
    for path in tmp_path.glob("*.jpg"):
        path.unlink()
    assert "has 1 files that may be labels ('notes.csv') and no pictures" in message()


def test_pictures_in_folders_are_no_classes_to_a_detector(tmp_path: Path) -> None:
    for p in layouts.pictures({"a": 2, "b": 2}):
        layouts.save_picture(tmp_path / p.split / p.file, p)
    with pytest.raises(ValueError, match=r"has 4 pictures and no labels .* use predict"):
        tasks.data.open("auto", root=tmp_path, task="detection")
    assert tasks.data.open(tmp_path, task="classification").class_names == ["a", "b"]


def test_names_that_differ_in_case_or_ending_only(tmp_path: Path) -> None:
    given = layouts.whole(10)
    layouts.yolo_beside(tmp_path, given)
    for p in given[:3]:
        (tmp_path / f"{p.stem}.txt").rename(tmp_path / f"{p.stem.upper()}.TXT".replace(".TXT", ".txt"))
    source = tasks.data.open(tmp_path)
    assert_objects(objects_of(source, ("train", "val")), given)
    Image.open(tmp_path / "img_9.jpg").save(tmp_path / "img_9.png")
    source = tasks.data.open(tmp_path, on_invalid="error")
    with pytest.raises(ValueError, match=r"'img_9.jpg' and 'img_9.png' would both have the labels"):
        source.split("train")


def test_a_class_in_val_alone_is_told(tmp_path: Path) -> None:
    given = layouts.pictures({"train": 4, "val": 2})
    given = [
        p._replace(objects=[(("dog" if p.split == "val" else "cat"), box) for _, box in p.objects])
        for p in given
    ]
    layouts.roboflow_voc(tmp_path, given)
    source = tasks.data.open(tmp_path)
    _ = source.split("train"), source.split("val")
    assert describe(source).endswith("in val alone, so that nothing of it can be learned: dog")


def test_a_few_faults_are_mended_and_many_stop(tmp_path: Path) -> None:
    given = layouts.pictures({"train": 12, "val": 3})
    layouts.coco_own(tmp_path, given)
    path = tmp_path / "annotations/instances_train2017.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"][2] = 0
    path.write_text(json.dumps(content))
    assert len(tasks.data.open(tmp_path).split("train").annotations.ids) == len(content["annotations"]) - 1
    for annotation in content["annotations"][:10]:
        annotation["bbox"][2] = 0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="10 of .* annotations cannot be used"):
        tasks.data.open(tmp_path).split("train")


def test_on_the_command_line(tmp_path: Path) -> None:
    given = layouts.pictures()
    layouts.roboflow_yolo(tmp_path, given)
    for words in ([f"data.root={tmp_path}"], [f"data={tmp_path}"], ["data=auto", f"data.root={tmp_path}"]):
        config = compose("train", ["task=detection", *words])
        assert config.data._target_ == "tasks.data.formats.yolo.YoloData"
        assert config.found == "YOLO, as Roboflow exports it"
        assert_objects(objects_of(data_of(config), ("val",)), [p for p in given if p.split == "val"])
    config = compose(
        "train", ["task=detection", f"data.root={tmp_path}", "data.max_images=2", "data.on_invalid=drop"]
    )
    assert (config.data.max_images, config.data.on_invalid) == (2, "drop")
    with pytest.raises(ValueError, match="unknown setting 'data.max_image'"):
        compose("train", ["task=detection", f"data.root={tmp_path}", "data.max_image=2"])
    with pytest.raises(ValueError, match=r"data=nowhere is not in configs/data"):
        compose("train", ["task=detection", "data=nowhere"])
    result = command("check_data", f"data={tmp_path}", f"run_dir={tmp_path / 'report'}")
    assert result.returncode == 0, result.stderr
    assert "found YOLO, as Roboflow exports it" in result.stdout
    assert "train: 6 images" in result.stdout


def test_classification_gets_its_preprocessing(tmp_path: Path) -> None:
    layouts.class_folders(tmp_path, layouts.pictures({"train": 6, "val": 4}))
    config = compose("train", ["task=classification", f"data.root={tmp_path}"])
    assert config.data._target_ == "tasks.data.formats.image_folder.ImageFolderData"
    assert config.preprocessing.center_crop == 224


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("train", ["task=detection"]),
        ("evaluate", ["checkpoint=x"]),
        ("export", ["checkpoint=x", "output=y"]),
        ("tune", ["checkpoint=x"]),
        ("explain", ["checkpoint=x", "image=y"]),
        ("suspects", ["checkpoint=x"]),
        ("check_data", []),
        ("show_data", ["task=detection"]),
        ("convert_data", ["to=coco", "out=y"]),
    ],
)
def test_every_command_takes_a_folder_alone(name: str, words: list[str], tmp_path: Path) -> None:
    layouts.roboflow_yolo(tmp_path, layouts.pictures())
    config = compose(name, [*words, f"data.root={tmp_path}"])
    assert config.data._target_ == "tasks.data.formats.yolo.YoloData"
