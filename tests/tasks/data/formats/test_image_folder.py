"""One folder per class: what is listed, what is read, and what is said where something is wrong."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.data.datamodule import DataModule
from tasks.data.formats.digits import DigitsData, SingleDigitsData
from tasks.data.formats.image_folder import ImageFolderData
from tasks.preprocessing import Preprocessing

SMALL = Preprocessing(short_side=16, center_crop=12)


def write(path: Path, value: int, size: tuple[int, int] = (20, 30)) -> None:
    """A picture of (height, width) in one grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in (("train/cat/1.png", 10), ("train/cat/deeper/2.JPG", 20), ("train/Dog/1.png", 30)):
        write(tmp_path / name, value)
    for name, value in (("val/cat/a.png", 40), ("val/Dog/b.webp", 50)):
        write(tmp_path / name, value)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    (tmp_path / "train" / "readme.txt").write_text("no class")
    (tmp_path / "train" / ".hidden").mkdir()
    write(tmp_path / "train" / "cat" / "._1.png", 60)
    return tmp_path


def test_lists_pictures_by_class_in_the_order_of_names(root: Path) -> None:
    data = ImageFolderData(root)
    assert data.class_names == ["Dog", "cat"]  # as sorted() does, and torchvision's ImageFolder
    assert data.category_ids.tolist() == [0, 1]
    split = data.split("train")
    annotations = split.annotations
    files = [annotations.file_name(i) for i in range(len(split))]
    assert files == ["Dog/1.png", "cat/1.png", "cat/deeper/2.JPG"]
    assert annotations.labels.tolist() == [0, 1, 1]
    assert annotations.image_ids.tolist() == [0, 1, 2]
    assert [int(split.image(i).mean()) for i in (0, 1)] == [30, 10]
    assert split.image(0).shape == (20, 30, 3)
    assert data.split("train") is split
    chosen = annotations.select(np.array([2, 0]))
    assert (chosen.file_name(0), chosen.labels.tolist()) == ("cat/deeper/2.JPG", [1, 0])


def test_same_labels_as_torchvision(root: Path) -> None:
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.datasets.ImageFolder(str(root / "val"))
    ours = ImageFolderData(root).split("val").annotations
    assert [
        (str(root / "val" / ours.file_name(i)), int(ours.labels[i])) for i in range(len(ours))
    ] == theirs.samples


def test_batches_hold_classes_and_sizes(root: Path) -> None:
    module = DataModule(ImageFolderData(root), SMALL, batch_size=2, classes=True)
    batch = next(iter(module.val_dataloader()))
    assert batch.images.shape == (2, 3, 12, 12)
    assert batch.class_ids.tolist() == [0, 1]
    assert batch.original_sizes.tolist() == [[20, 30], [20, 30]]
    assert batch.boxes.shape == (2, 0, 4)
    assert batch.class_weights is None


def test_split_with_a_class_less(root: Path) -> None:
    for picture in (root / "val" / "Dog").iterdir():
        picture.unlink()
    (root / "val" / "Dog").rmdir()
    assert ImageFolderData(root).split("val").annotations.labels.tolist() == [1]


def test_validation_folder_alone_serves_for_evaluation(root: Path) -> None:
    (root / "train").rename(root / "elsewhere")
    assert ImageFolderData(root).class_names == ["Dog", "cat"]
    assert len(ImageFolderData(root, train="elsewhere").split("train")) == 3


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="data.root=.*nowhere is no folder; give the folder that holds train/"
    ):
        ImageFolderData(tmp_path / "nowhere")


def test_root_without_splits(root: Path) -> None:
    with pytest.raises(
        ValueError, match="holds none of the folders train, val, test; wanted <root>/train/<class>/"
    ):
        ImageFolderData(root / "train")


def test_missing_split(root: Path) -> None:
    with pytest.raises(
        ValueError, match="there is no test split: '.*test' is no folder; make it, or give data.test="
    ):
        ImageFolderData(root).split("test")


def test_split_without_class_folders(tmp_path: Path) -> None:
    write(tmp_path / "val" / "ILSVRC2012_val_00000001.png", 0)
    with pytest.raises(ValueError, match="val' has no folders inside; wanted one per class"):
        ImageFolderData(tmp_path)


def test_class_folder_without_images(root: Path) -> None:
    (root / "train" / "cow").mkdir()
    (root / "train" / "cow" / "list.txt").write_text("")
    with pytest.raises(
        ValueError, match=r"class folder '.*train/cow' has no images .known endings: .bmp, .*; add"
    ):
        ImageFolderData(root).split("train")


def test_class_that_training_lacks(root: Path) -> None:
    write(root / "val" / "cow" / "1.png", 0)
    with pytest.raises(
        ValueError, match="folders for classes that the training data lacks: cow; it has Dog, cat"
    ):
        ImageFolderData(root).split("val")


@pytest.mark.parametrize("content", [b"", b"not a picture", None], ids=["empty", "text", "cut"])
def test_unreadable_picture_is_named(root: Path, content: bytes | None) -> None:
    path = root / "val" / "cat" / "a.png"
    path.write_bytes(path.read_bytes()[:-20] if content is None else content)
    module = DataModule(ImageFolderData(root), SMALL, batch_size=2, classes=True)
    with pytest.raises(ValueError, match="'.*val/cat/a.png' (is not an image|cannot be decoded)"):
        next(iter(module.val_dataloader()))


def test_tasks_on_the_wrong_kind_of_data(root: Path) -> None:
    with pytest.raises(
        ValueError, match="detection needs a box for each object, which ImageFolderData does not have"
    ):
        DataModule(ImageFolderData(root), SMALL).split("train")
    with pytest.raises(ValueError, match="detection needs a box .* SingleDigitsData does not"):
        DataModule(
            SingleDigitsData(num_train=4, num_val=1, num_test=1), SMALL, batch_size=1
        ).train_dataloader()
    digits = DigitsData(num_train=4, num_val=1, num_test=1)
    with pytest.raises(
        ValueError, match="classification needs a class for each image, which DigitsData does not"
    ):
        DataModule(digits, SMALL, batch_size=1, classes=True).train_dataloader()


def test_names_beyond_ascii(tmp_path: Path) -> None:
    write(tmp_path / "train" / "Käfer" / "ü 1.png", 3)
    split = ImageFolderData(tmp_path).split("train")
    assert split.annotations.file_name(0) == "Käfer/ü 1.png"
    assert split.image(0)[0, 0].tolist() == [3, 3, 3]
