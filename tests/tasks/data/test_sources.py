"""Sources of any format: opened by name, and a format of one's own from a reader alone."""

import inspect
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tasks.data
from tasks.cli.compose import compose
from tasks.data.datamodule import DataModule
from tasks.data.formats.object_files import ObjectFiles
from tasks.data.formats.raw import RawSplit
from tasks.data.loading.storage import open_images
from tasks.data.quality.image_checks import image_size
from tasks.data.quality.report import examine
from tasks.data.splits import SplitName
from tasks.preprocessing import Preprocessing


@pytest.mark.parametrize("name", [name for name in tasks.data.FORMATS if name != "auto"])
def test_open_gives_what_a_configuration_names(name: str) -> None:
    required = {"root": "data.root=there", "file": "data.file=there"}
    kind = tasks.data.FORMATS[name].replace(":", ".")
    module, _, attribute = kind.rpartition(".")
    parameters = inspect.signature(getattr(__import__(module, fromlist=[attribute]), attribute)).parameters
    wanted = [
        word
        for key, word in required.items()
        if key in parameters and parameters[key].default is inspect.Parameter.empty
    ]
    task = "classification" if name in ("cifar10", "image_folder", "single_digits") else "detection"
    task = "semantic_segmentation" if name == "mask_png" else task
    assert compose("train", [f"task={task}", f"data={name}", *wanted]).data._target_ == kind


def test_open_coco_by_name(coco_root: Path) -> None:
    source = tasks.data.open("coco", root=coco_root, max_images=2)
    assert len(source.split("train")) == 2
    assert source.split("train") is source.split("train")
    with pytest.raises(
        ValueError,
        match="data=coc is neither a format that is known nor a folder; wanted one of auto, coco, voc",
    ):
        tasks.data.open("coc", root=coco_root)


class Squares(ObjectFiles):
    """One line an object: image, class, x, y, width, height."""

    def __init__(self, root: Path, *, on_invalid: str = "error", split: str | None = None):
        super().__init__(root, on_invalid, split=split)  # type: ignore[arg-type]

    def has_files(self, name: SplitName) -> bool:
        return (self.root / f"{name}.txt").is_file()

    def image_folder(self, name: SplitName) -> Path:
        return self.root

    def read(self, name: SplitName, *, masks: bool) -> RawSplit:
        path = self.root / f"{name}.txt"
        rows = sorted(line.split() for line in path.read_text().splitlines())
        files, names = sorted({row[0] for row in rows}), ["cat", "dog"]
        return RawSplit.without_ids(
            name,
            str(path),
            self.root,
            class_names=names,
            category_ids=np.arange(2),
            file_names=files,
            sizes=[image_size(open_images(self.root, self.reading), file) for file in files],
            counts=[sum(row[0] == file for row in rows) for file in files],
            categories=[row[1] for row in rows],
            labels=[names.index(row[1]) if row[1] in names else -1 for row in rows],
            boxes=np.array([row[2:] for row in rows], np.float64).reshape(-1, 4),
        )


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    for index in range(4):
        Image.new("RGB", (40, 30), (index, 0, 0)).save(tmp_path / f"{index}.png")
    lines = ["0.png cat 1 2 10 10", "1.png dog 0 0 8 8", "0.png dog 20 5 10 10", "2.png cow 1 1 5 5"]
    (tmp_path / "train.txt").write_text("\n".join(lines))
    (tmp_path / "val.txt").write_text("3.png cat 35 0 10 10")
    return tmp_path


def test_a_format_is_a_reader(squares: Path) -> None:
    with pytest.raises(ValueError, match=r"2\.png.*its category is not declared.*category 'cow'"):
        Squares(squares).split("train")
    source = Squares(squares, on_invalid="fix")
    assert source.class_names == ["cat", "dog"]
    assert not source.has_split("test")
    train, val = source.split("train").annotations, source.split("val").annotations
    assert train.ids.tolist() == [1, 2, 3]
    assert train.labels.tolist() == [0, 1, 1]
    assert train.areas.tolist() == [100, 100, 64]
    assert val.boxes.tolist() == [[35, 0, 5, 10]]  # clipped to its image
    assert {
        f.issue.name for f in examine(source, Preprocessing()).findings if f.issue.severity == "error"
    } == {
        "undeclared category",
        "box outside image",
    }
    data = DataModule(source, Preprocessing(short_side=30, max_size=40), batch_size=1)
    assert next(iter(data.val_dataloader())).boxes[0].tolist() == [[35, 0, 40, 10]]


def test_a_format_of_ones_own_is_split_and_lacks_what_it_has_not(squares: Path) -> None:
    source = Squares(squares, on_invalid="drop", split="0.5/0.5")
    names: tuple[SplitName, ...] = ("train", "val")
    files = [file for name in names for file in source.split(name).annotations.file_names.tolist()]
    assert sorted(files) == [b"0.png", b"1.png", b"2.png"]
    with pytest.raises(ValueError, match="classification needs a class for each image, which Squares does"):
        source.with_classes()
