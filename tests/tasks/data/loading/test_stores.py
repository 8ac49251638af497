"""Images in folders, tars and zips."""

import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.data.formats.coco import CocoData
from tasks.data.formats.image_folder import ImageFolderData
from tasks.data.loading.images import read_image
from tasks.data.loading.storage import open_images
from tests.tasks.data.coco_on_disk import ROTATED, picture, save_rotated


def pack(folder: Path, archive: Path, *, top: str = "") -> None:
    """Everything in `folder`, as `tar -cf` or `zip` would, below `top`."""
    if archive.suffix == ".tar":
        with tarfile.open(archive, "w") as tar:
            tar.add(folder, arcname=top or ".")
    else:
        with zipfile.ZipFile(archive, "w") as zipped:
            for number, path in enumerate(sorted(folder.rglob("*"))):
                kind = zipfile.ZIP_DEFLATED if number % 2 else zipfile.ZIP_STORED
                zipped.write(path, Path(top) / path.relative_to(folder), compress_type=kind)


@pytest.mark.parametrize("ending", [".tar", ".zip"])
@pytest.mark.parametrize("top", ["", "train2017"])
def test_coco_in_an_archive_is_coco_in_a_folder(coco_root: Path, ending: str, top: str) -> None:
    pack(coco_root / "train2017", coco_root / f"images{ending}", top=top)
    plain = CocoData(coco_root).split("train")
    packed = CocoData(coco_root, train_images=f"images{ending}/{top}").split("train")
    assert len(packed) == len(plain) == 4
    for index in range(4):
        np.testing.assert_array_equal(packed.image(index), plain.image(index))
    again = pickle.loads(pickle.dumps(packed.storage))
    np.testing.assert_array_equal(again.image("plain.jpg"), plain.image(0))


@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_what_an_archive_lacks_is_named(coco_root: Path, ending: str) -> None:
    (coco_root / "train2017/plain.jpg").unlink()
    pack(coco_root / "train2017", coco_root / f"images{ending}")
    with pytest.raises(ValueError, match=r"1 of 4 images cannot be used: image 700 'plain.jpg'"):
        CocoData(coco_root, train_images=f"images{ending}").split("train")
    store = open_images(coco_root / f"images{ending}")
    assert store.names() == ["bäume.png", "deeper/grey.png", ROTATED]
    with pytest.raises(FileNotFoundError, match=rf"images\{ending}/plain.jpg' does not exist"):
        store.image("plain.jpg")
    with pytest.raises(FileNotFoundError, match="image folder '.*nowhere.zip' does not exist"):
        CocoData(coco_root, train_images="nowhere.zip").split("train")


def test_a_damaged_image_in_an_archive_is_named(tmp_path: Path) -> None:
    Image.fromarray(picture(60, 60)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as zipped:
        zipped.writestr("deep/a.jpg", content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"image '.*b.zip/deep/a.jpg' cannot be decoded"):
        open_images(tmp_path / "b.zip").image("deep/a.jpg")


def test_compressed_archives_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("words")
    with tarfile.open(tmp_path / "b.tar", "w:gz") as tar:
        tar.add(tmp_path / "a.txt", "a.txt")
    with pytest.raises(ValueError, match=r"b.tar' is no zip and no plain tar file .* tar -cf"):
        open_images(tmp_path / "b.tar")
    with zipfile.ZipFile(tmp_path / "c.zip", "w", compression=zipfile.ZIP_LZMA) as zipped:
        zipped.write(tmp_path / "a.txt", "a.txt")
    with pytest.raises(ValueError, match=r"c.zip' is compressed by method 14, which is not read.* zip -0"):
        open_images(tmp_path / "c.zip").image("a.txt")


def test_the_last_of_several_of_one_name_counts(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for value in (10, 200):
            Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(tmp_path / "a.png")
            tar.add(tmp_path / "a.png", "a.png")
    assert open_images(tmp_path / "a.tar").image("a.png").max() == 200


@pytest.mark.parametrize("ending", [".tar", ".zip"])
def test_class_folders_in_an_archive(tmp_path: Path, ending: str) -> None:
    root = tmp_path / "root"
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            for index in range(2):
                folder = root / split / name / "deeper"
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(picture(20, 30, number + index)).save(folder / f"{index}.png")
    (root / "train/cat/.hidden.png").write_text("no picture")
    pack(root / "train", root / f"train{ending}")
    pack(root, tmp_path / f"all{ending}")
    plain = ImageFolderData(root)
    for packed in (
        ImageFolderData(root, train=f"train{ending}"),
        ImageFolderData(tmp_path / f"all{ending}"),
    ):
        assert packed.class_names == plain.class_names == ["cat", "dog"]
        theirs, ours = plain.split("train").annotations, packed.split("train").annotations
        assert ours.file_names.tolist() == theirs.file_names.tolist()
        assert ours.labels.tolist() == theirs.labels.tolist() == [0, 0, 1, 1]
        np.testing.assert_array_equal(packed.split("train").image(3), plain.split("train").image(3))
        assert len(packed.split("val")) == 4


def test_jpegs_are_decoded_at_a_part_of_their_size(tmp_path: Path) -> None:
    Image.fromarray(picture(401, 300)).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(picture(400, 300)).save(tmp_path / "a.png")
    save_rotated(tmp_path / "turned.jpg", picture(401, 300))
    seen = []

    def half(height: int, width: int) -> tuple[int, int]:
        seen.append((height, width))
        return 180, 135

    assert read_image(tmp_path / "a.jpg", shown_at=half).shape == (201, 150, 3)
    assert read_image(tmp_path / "a.png", shown_at=half).shape == (400, 300, 3)
    turned = read_image(tmp_path / "turned.jpg", shown_at=half)
    assert seen == [(401, 300), (400, 300), (401, 300)]  # upright
    assert np.abs(turned.astype(int) - picture(201, 150)).max() < 8
    for size, shape in [
        ((401, 300), (401, 300)),
        ((200, 150), (201, 150)),
        ((201, 150), (401, 300)),
        ((1, 1), (51, 38)),
    ]:
        assert read_image(tmp_path / "a.jpg", shown_at=lambda *_, size=size: size).shape == (*shape, 3)
