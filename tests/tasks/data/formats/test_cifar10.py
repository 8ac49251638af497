"""The packed file of CIFAR-10: read mapped or compressed, and refused with a sentence where it is wrong."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tasks.cli.compose import compose
from tasks.cli.data import transforms_of
from tasks.data.augmentation.pipeline import Augmentation
from tasks.data.datamodule import DataModule
from tasks.data.formats.cifar10 import Cifar10Data, read_packed
from tasks.data.loading.collate import empty_target
from tasks.preprocessing import Preprocessing

NAMES = ["airplane", "automobile", "bird"]


def pack(num_images: int = 7) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The arrays of a packed file, and its pictures as JPEG gives them back. Every third one is for testing."""
    generator = np.random.default_rng(0)
    files, pictures = [], []
    for _ in range(num_images):
        buffer = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), np.uint8)).save(buffer, "JPEG")
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
        pictures.append(np.array(Image.open(buffer)))
    arrays = {
        "data": np.concatenate(files),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.arange(num_images, dtype=np.uint8) % len(NAMES),
        "split": (np.arange(num_images) % 3 == 2).astype(np.uint8),
        "names": np.array(NAMES),
    }
    return arrays, pictures


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "packed.npz", **pack()[0])
    return tmp_path / "packed.npz"


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reads_what_was_packed(tmp_path: Path, save) -> None:
    arrays, pictures = pack()
    save(tmp_path / "packed.npz", **arrays)
    data = Cifar10Data(tmp_path / "packed.npz")
    assert data.class_names == NAMES
    train, test = data.split("train"), data.split("test")
    assert train.annotations.image_ids.tolist() == [0, 1, 3, 4, 6]
    assert train.annotations.labels.tolist() == [0, 1, 0, 1, 0]
    assert test.annotations.image_ids.tolist() == [2, 5]
    assert data.split("val").annotations.image_ids.tolist() == [2, 5]
    for split in (train, test):
        for index, row in enumerate(split.annotations.image_ids):
            np.testing.assert_array_equal(split.image(index), pictures[row])
            assert split.annotations.file_name(index) == f"{row:05d}.jpg"


def test_pictures_stay_on_disk_unless_compressed(file: Path, tmp_path: Path) -> None:
    assert isinstance(read_packed(file)["data"], np.memmap)
    np.savez_compressed(tmp_path / "small.npz", **pack()[0])
    assert not isinstance(read_packed(tmp_path / "small.npz")["data"], np.memmap)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches(file: Path, num_workers: int) -> None:
    module = DataModule(
        Cifar10Data(file),
        Preprocessing(short_side=None),
        batch_size=2,
        num_workers=num_workers,
        classes=True,
    )
    batch = next(iter(module.val_dataloader()))
    assert batch.class_ids.tolist() == [2, 2]
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.original_sizes.tolist() == [[32, 32], [32, 32]]


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match="data.file=.*nowhere.npz does not exist; give the packed .npz"
    ):
        Cifar10Data(tmp_path / "nowhere.npz")


def test_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match="other.npz is no readable .npz file .*; get it again"):
        Cifar10Data(path)
    np.savez(path, images=np.zeros(3), labels=np.zeros(3))
    with pytest.raises(
        ValueError, match="lacks the arrays data, offsets, split, names; wanted an .npz with data"
    ):
        Cifar10Data(path)


def test_file_that_is_cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-300])
    with pytest.raises(ValueError, match="packed.npz is no readable .npz file"):
        Cifar10Data(file)


@pytest.mark.parametrize(
    "change",
    [
        {"offsets": np.array([0, 5])},
        {"offsets": np.zeros(8, np.int64)},
        {"split": np.zeros(3, np.uint8)},
        {"labels": np.full(7, 3)},
        {"labels": np.full(7, -1)},
        {"data": np.zeros(10, np.uint8)},
        {"offsets": np.arange(8, dtype=np.uint64)[::-1].copy()},
    ],
    ids=[
        "few offsets",
        "no lengths",
        "few marks",
        "labels above",
        "labels below",
        "little data",
        "descending",
    ],
)
def test_arrays_that_do_not_fit_each_other(tmp_path: Path, change: dict[str, np.ndarray]) -> None:
    np.savez(tmp_path / "packed.npz", **(pack()[0] | change))
    with pytest.raises(ValueError, match="packed.npz is damaged: .* do not fit each other; get it again"):
        Cifar10Data(tmp_path / "packed.npz")


def test_names_that_hold_code_are_refused(tmp_path: Path) -> None:
    """An array of Python objects would be unpickled, which can run anything."""
    arrays = pack()[0] | {"names": np.array(NAMES, dtype=object)}
    np.savez(tmp_path / "packed.npz", **arrays)
    with pytest.raises(
        ValueError, match="packed.npz holds Python objects in names.npy, which could run code"
    ):
        Cifar10Data(tmp_path / "packed.npz")


@pytest.mark.parametrize("name", ["data", "offsets", "labels", "split", "names"])
def test_arrays_of_another_type_are_named(tmp_path: Path, name: str) -> None:
    arrays = pack()[0]
    changed = np.zeros(len(arrays[name])) if name != "names" else np.arange(3)
    np.savez(tmp_path / "packed.npz", **(arrays | {name: changed}))
    with pytest.raises(ValueError, match=f"packed.npz holds .*{name} {changed.dtype} .*; wanted flat arrays"):
        Cifar10Data(tmp_path / "packed.npz")


def test_damaged_picture_is_named(tmp_path: Path) -> None:
    arrays = pack()[0]
    start, stop = arrays["offsets"][3:5]
    arrays["data"][start:stop] = 0
    np.savez(tmp_path / "packed.npz", **arrays)
    split = Cifar10Data(tmp_path / "packed.npz").split("train")
    with pytest.raises(ValueError, match="image 3 of data.file is damaged"):
        split.image(2)


@pytest.mark.parametrize(
    ("words", "side"),
    [
        (["data=cifar10", "data.file=x"], 32),
        (["data=image_folder", "data.root=x"], 224),
        (["data=image_folder", "data.root=x", "preprocessing.center_crop=160"], 160),
    ],
)
def test_augmentation_ends_at_the_size_that_evaluation_has(words: list[str], side: int) -> None:
    config = compose("train", ["task=classification", *words])
    augmentation = Augmentation(transforms_of(config))
    image = np.full((32, 32, 3) if side == 32 else (300, 400, 3), 9, np.uint8)
    seen = {augmentation(image, empty_target(0, (32, 32)), (0, epoch))[0].tobytes() for epoch in range(20)}
    assert {len(picture) for picture in seen} == {3 * side * side}
    if side == 32:  # black where the picture ends, at most four pixels of each side
        black = [np.frombuffer(p, np.uint8).reshape(32, 32, 3).max(axis=2) == 0 for p in seen]
        assert len(seen) > 10
        assert all((~mask).sum() >= 28 * 28 for mask in black)
