"""Chains of conversions keep boxes, class names and masks; what a format cannot hold is told."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask

from tasks.data.annotations.objects import Annotations
from tasks.data.annotations.outlines import outline
from tasks.data.formats.coco import CocoData
from tasks.data.formats.convert import Format, Split, convert
from tasks.data.formats.voc import VocData
from tasks.data.formats.yolo import YoloData
from tests.tasks.data.coco_on_disk import uncompressed, write_json
from tests.tasks.data.defects_on_disk import texture

ROOT = Path(__file__).parents[4]
HEIGHT, WIDTH = 120, 160
SOURCES: dict[str, Any] = {"coco": CocoData, "voc": VocData, "yolo": YoloData}
NAMES = ["zebra", "ant", "cat", "never seen"]


def ring(x: float, y: float, w: float, h: float) -> list[float]:
    """A polygon of many corners that fills its box from side to side."""
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    points = np.stack([x + w / 2 + w / 2 * np.cos(angles), y + h / 2 + h / 2 * np.sin(angles)], axis=1)
    return points.reshape(-1).tolist()


def runs(x: int, y: int, w: int, h: int) -> tuple[dict[str, Any], list[float]]:
    """A frame with a hole and an island beside it, as run lengths, and its box."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y : y + h, x : x + w] = 1
    mask[y + 5 : y + h - 5, x + 5 : x + w - 5] = 0
    mask[y : y + 8, x + w + 4 : x + w + 12] = 1
    return {"size": [HEIGHT, WIDTH], "counts": uncompressed(mask)}, [x, y, w + 12, h]


def write(root: Path) -> Path:
    """COCO's layout, with ids out of order, both kinds of masks, a crowd, an image in a folder, an empty one."""
    ids = dict(zip(NAMES, (90, 3, 17, 50), strict=True))
    boxes = [
        [10.25, 5.125, 60.5, 70.75],
        [80.5, 30.25, 40, 50.125],
        [0, 0, 30.5, 20.25],
        [1.5, 100.25, 20.125, 0.75],
    ]
    for split, first in (("train", 700), ("val", 20)):
        files = ["a.png", "deeper/b.png", "c d.png"]
        images, annotations = [], []
        for index, file in enumerate(files):
            path = (
                root / f"{split}2017" / f"{split[0]}{file}"
                if "/" not in file
                else root / f"{split}2017" / file
            )
            file = path.relative_to(root / f"{split}2017").as_posix()
            if split == "val":
                file = file.replace("b.png", "e.png")
                path = path.with_name(path.name.replace("b.png", "e.png"))
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(texture(first + index, HEIGHT, WIDTH)).save(path)
            images.append({"id": first - index * 7, "file_name": file, "height": HEIGHT, "width": WIDTH})
        for index, box in enumerate(boxes):
            annotations.append(
                {
                    "id": first + 40 - index, "image_id": images[index // 2]["id"],
                    "category_id": ids[NAMES[index % 3]], "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
                    "segmentation": [ring(*box)] if index < 2 else [],
                }
            )  # fmt: skip
        segmentation, box = runs(60, 40, 40, 30)
        two = [ring(20, 60, 30, 20), ring(70, 70, 20, 40)]
        crowd = {"size": [HEIGHT, WIDTH], "counts": uncompressed(np.ones((HEIGHT, WIDTH), np.uint8))}
        for offset, (shape, bbox, is_crowd) in enumerate(
            [(segmentation, box, 0), (two, [20, 60, 70, 50], 0), (crowd, [0, 0, WIDTH, HEIGHT], 1)]
        ):
            annotations.append(
                {
                    "id": first + 100 + offset, "image_id": images[0]["id"], "category_id": ids["cat"], "bbox": bbox,
                    "area": bbox[2] * bbox[3], "iscrowd": is_crowd, "segmentation": shape,
                }
            )  # fmt: skip
        categories = [{"id": category_id, "name": name} for name, category_id in ids.items()]
        content = {"images": images, "annotations": annotations, "categories": categories}
        write_json(root / f"annotations/instances_{split}2017.json", content)
    return root


@pytest.fixture(scope="module")
def coco(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("coco"))


def chain(root: Path, first: Format, out: Path, formats: list[Format], crowd: Any = "keep") -> list[str]:
    """Converts from format to format; the notes of all."""
    notes = []
    kind = first
    for index, to in enumerate(formats):
        source = SOURCES[kind](root)
        source = source.with_masks() if kind != "voc" else source
        splits = [Split(n, source.split(n).folder, source.split(n).annotations) for n in ("train", "val")]
        notes += convert(splits, to, out / str(index), crowd=crowd).lines()
        kind, root = to, out / str(index)
    return notes


def objects(annotations: Annotations, *, crowd: bool = True) -> dict[str, list[tuple[str, np.ndarray]]]:
    """Class and box of every object by the stem of its image, sorted."""
    found: dict[str, list[tuple[str, np.ndarray]]] = {}
    for index in range(len(annotations)):
        rows = range(annotations.offsets[index], annotations.offsets[index + 1])
        stem = Path(annotations.file_name(index)).stem.removeprefix("deeper_").replace(" ", "_")
        found[stem] = sorted(
            ((annotations.class_names[annotations.labels[r]], annotations.boxes[r]) for r in rows
             if crowd or not annotations.is_crowd[r]),
            key=lambda item: (item[0], item[1].tolist()),
        )  # fmt: skip
    return found


def assert_same(
    found: Annotations, wanted: Annotations, *, crowd: bool = True, tolerance: float = 0.5
) -> None:
    a, b = objects(found, crowd=crowd), objects(wanted, crowd=crowd)
    assert set(a) == set(b)
    for stem, items in b.items():
        assert [name for name, _ in a[stem]] == [name for name, _ in items]
        for (_, box), (_, expected) in zip(a[stem], items, strict=True):
            corners = np.concatenate([box[:2], box[:2] + box[2:]])
            np.testing.assert_allclose(
                corners, np.concatenate([expected[:2], expected[:2] + expected[2:]]), atol=tolerance
            )


@pytest.mark.parametrize(
    "formats", [["voc", "coco"], ["yolo", "coco"], ["voc", "yolo", "coco"], ["yolo", "voc", "coco"], ["coco"]]
)
def test_chains_keep_boxes_and_names(coco: Path, formats: list[Format], tmp_path: Path) -> None:
    chain(coco, "coco", tmp_path, formats)
    result, wanted = CocoData(tmp_path / str(len(formats) - 1)), CocoData(coco)
    assert sorted(result.class_names) == sorted(NAMES)
    assert result.class_names == wanted.class_names
    for name in ("train", "val"):
        split = result.split(name)
        assert_same(split.annotations, wanted.split(name).annotations)
        for index in range(len(split)):
            assert split.image(index).shape == (HEIGHT, WIDTH, 3)


def masks(annotations: Annotations, stem: str) -> list[np.ndarray]:
    (index,) = (i for i in range(len(annotations)) if Path(annotations.file_name(i)).stem == stem)
    full = []
    for mask in annotations.target(index).masks or []:
        whole = np.zeros((HEIGHT, WIDTH), bool)
        height, width = mask.bitmap.shape
        whole[mask.top : mask.top + height, mask.left : mask.left + width] = mask.bitmap
        full.append(whole)
    return full


def test_masks_survive_yolo(coco: Path, tmp_path: Path) -> None:
    notes = chain(coco, "coco", tmp_path, ["yolo", "coco"])
    wanted = masks(CocoData(coco, masks=True).split("train").annotations, "ta")
    found = masks(CocoData(tmp_path / "1", masks=True).split("train").annotations, "ta")
    assert len(found) == len(wanted) == 5
    for a, b in zip(found, wanted, strict=True):
        assert (a & b).sum() / (a | b).sum() >= 0.98
    assert not any("replaced by that of their mask" in note for note in notes)


def test_coco_to_coco_is_exact(coco: Path, tmp_path: Path) -> None:
    assert chain(coco, "coco", tmp_path, ["coco"]) == []
    a, b = (
        CocoData(root, masks=True).split("train").annotations.to_coco() for root in (coco, tmp_path / "0")
    )
    assert a == b


def test_what_cannot_be_held_is_told(coco: Path, tmp_path: Path) -> None:
    notes = "\n".join(chain(coco, "coco", tmp_path / "v", ["voc"]))
    for words in (
        "6 image ids and category ids written without: VOC", "14 annotation ids", "2 crowd regions became difficult",
        "10 masks left out", "2 boxes of a pixel or less", "4 image names changed",
    ):  # fmt: skip
        assert words in notes
    annotations = VocData(tmp_path / "v/0").split("train").annotations
    assert annotations.is_crowd.sum() == 1
    notes = "\n".join(chain(coco, "coco", tmp_path / "y", ["yolo"], crowd="drop"))
    assert "2 crowd regions or difficult objects left out" in notes
    assert len(YoloData(tmp_path / "y/0").split("train").annotations.ids) == 6
    notes = "\n".join(chain(coco, "coco", tmp_path / "k", ["yolo"]))
    assert "2 crowd regions or difficult objects written as any other" in notes


def test_difficult_objects_stay_difficult(coco: Path, tmp_path: Path) -> None:
    chain(coco, "coco", tmp_path, ["voc", "coco", "voc"])
    first, last = (VocData(tmp_path / n).split("train").annotations for n in ("0", "2"))
    assert first.is_crowd.tolist() == last.is_crowd.tolist()
    np.testing.assert_allclose(first.boxes, last.boxes, atol=1e-6)


box_sides = st.tuples(
    st.floats(1, 119), st.floats(1, 79), st.floats(0.3, 40), st.floats(0.3, 40)
)  # x, y, width, height


@settings(max_examples=15, deadline=None)
@given(boxes=st.lists(box_sides, min_size=1, max_size=5, unique=True))
def test_any_boxes_survive_every_format(boxes: list, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("any")
    image = {"id": 1, "file_name": "a.png", "height": HEIGHT, "width": WIDTH}
    (root / "train2017").mkdir()
    Image.fromarray(texture(1, HEIGHT, WIDTH)).save(root / "train2017/a.png")
    annotations = [
        {"id": i, "image_id": 1, "category_id": 1, "bbox": list(box), "area": 1.0, "iscrowd": 0}
        for i, box in enumerate(boxes, start=1)
    ]
    content = {"images": [image], "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    write_json(root / "annotations/instances_train2017.json", content)
    wanted = CocoData(root).split("train")
    for to in ("voc", "yolo"):
        convert([Split("train", wanted.folder, wanted.annotations)], to, root / to)
        found = SOURCES[to](root / to).split("train").annotations
        start = wanted.annotations.boxes[:, :2]
        np.testing.assert_allclose(found.boxes[:, :2], start, atol=0.51)
        np.testing.assert_allclose(
            found.boxes[:, :2] + found.boxes[:, 2:], start + wanted.annotations.boxes[:, 2:], atol=0.71
        )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_an_outline_fills_what_the_mask_fills(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    for _ in range(rng.integers(1, 4)):
        x, y = rng.integers(0, 110), rng.integers(0, 80)
        mask[y : y + rng.integers(12, 40), x : x + rng.integers(12, 50)] = rng.random() < 0.8
    mask[30:60, 40:90] = 1
    mask[40:50, 50:80] = rng.random() < 0.5
    runs = coco_mask.encode(np.asfortranarray(mask))
    found = outline({"size": runs["size"], "counts": runs["counts"].decode()}, HEIGHT, WIDTH)
    assert found is not None
    filled = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([found], HEIGHT, WIDTH)))  # type: ignore[arg-type]
    assert (filled & mask).sum() / (filled | mask).sum() >= 0.98
    points = np.array(found).reshape(-1, 2)
    rows, columns = np.nonzero(mask)
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose([*points.min(axis=0), *points.max(axis=0)], edges, atol=0.5)


def test_overlapping_polygons_keep_their_box() -> None:
    parts = [ring(10.3, 20.7, 30.4, 20.2), ring(30.1, 25.3, 30.6, 40.45)]
    found = outline(parts, HEIGHT, WIDTH)
    assert found is not None
    points = np.array(found).reshape(-1, 2)
    np.testing.assert_allclose(
        [*points.min(axis=0), *points.max(axis=0)], [10.3, 20.7, 60.7, 65.75], atol=0.1
    )
    filled, wanted = (
        coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(rings, HEIGHT, WIDTH)))  # type: ignore[arg-type]
        for rings in ([found], parts)
    )
    assert (filled & wanted).sum() / (filled | wanted).sum() >= 0.98


def test_outlines_of_nothing() -> None:
    assert outline(None, 10, 10) is None
    assert outline([], 10, 10) is None
    assert (
        outline(
            {"size": [10, 10], "counts": coco_mask.encode(np.zeros((10, 10), np.uint8, "F"))["counts"]},
            10,
            10,
        )
        is None
    )


def test_the_command(coco: Path, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(ROOT / "tools/convert_data.py"),
        "data=coco",
        f"data.root={coco}",
        "to=yolo",
    ]
    lossy = subprocess.run([*command, "out=lossy"], cwd=tmp_path, capture_output=True, text=True)
    assert lossy.returncode == 1, lossy.stderr
    assert "lost: 2 of 14 objects are not written" in lossy.stdout
    result = subprocess.run([*command, "out=new", "crowd=drop"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "note: 2 crowd regions or difficult objects left out" in result.stdout
    assert "read it with data=yolo data.root=new" in result.stdout
    assert len(YoloData(tmp_path / "new").split("val")) == 3
    again = subprocess.run([*command, "out=new"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 2
    assert "out=new is not empty; give another folder, or delete this one" in again.stderr


def _folder_and_annotations(coco: Path) -> tuple[Path, Annotations]:
    split = CocoData(coco).split("val")
    return split.folder, split.annotations


def test_nothing_is_left_half_written(coco: Path, tmp_path: Path) -> None:
    source = CocoData(coco).split("train")
    source.annotations.file_names = np.array([b"ta.png", b"deeper/../ta.png", b"tc d.png"])
    with pytest.raises(ValueError, match="would both be named 'ta'.*rename one of them"):
        convert([Split("train", source.folder, source.annotations)], "voc", tmp_path / "new")
    assert not list(tmp_path.iterdir())
    for name in ("new.partial", ".new.partial"):  # of somebody else
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").touch()
    with pytest.raises(ValueError, match="would both be named 'ta'"):
        convert([Split("train", source.folder, source.annotations)], "voc", tmp_path / "new")
    convert([Split("val", *_folder_and_annotations(coco))], "voc", tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".new.partial", "new", "new.partial"]
    assert all((tmp_path / name / "kept").exists() for name in ("new.partial", ".new.partial"))
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "new.partial").stat().st_mode
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    with pytest.raises(FileExistsError, match="is not empty"):
        convert([], "coco", tmp_path / "full")


def test_names_of_one_stem_are_told(coco: Path, tmp_path: Path) -> None:
    content = json.loads((coco / "annotations/instances_val2017.json").read_text())
    assert len(content["images"]) == 3
    source = CocoData(coco).split("val")
    source.annotations.file_names = np.array([b"va.png", b"sub/va.png", b"vc d.png"])
    (tmp_path / "in/sub").mkdir(parents=True)
    for file in ("va.png", "sub/va.png", "vc d.png"):
        (tmp_path / "in" / file).write_bytes(b"")
    convert([Split("val", tmp_path / "in", source.annotations)], "yolo", tmp_path / "yolo")
    assert (tmp_path / "yolo/labels/val/sub/va.txt").is_file()
