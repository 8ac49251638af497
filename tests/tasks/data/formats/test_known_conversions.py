"""Known cases of conversions, the doctor's report, the cache and pictures: nothing is lost in silence."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.cli.check_data import check_data
from tasks.cli.compose import compose
from tasks.cli.convert_data import convert_data
from tasks.data.formats import cache
from tasks.data.formats.coco import CocoData
from tasks.data.formats.yolo import YoloData
from tests.fuzz.annotations import HEIGHT, WIDTH
from tests.tasks.data.formats.known import SOURCES, edit, issues, sound, texts

# Conversions


def convert_words(kind: str, root: Path, to: str, out: Path, *more: str) -> int:
    words = [f"data={kind}", f"data.root={root}", f"to={to}", f"out={out}", *more]
    return convert_data(compose("convert_data", words)).status


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
    words = ["data=coco", f"data.root={root}", f"run_dir={tmp_path / 'out'}"]
    assert check_data(compose("check_data", words)).status == 0
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
