"""Mask PNGs beside images: values to labels, and every way in which masks can be wrong."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image

import tasks
from tasks.cli.folders import CONFIGS
from tasks.data.formats.mask_png import MaskPngData, read_mask
from tasks.targets import IGNORE_LABEL
from tests.tasks.data.coco_on_disk import picture, save_rotated

NAMES = ["background", "cat", "dog"]


def labels(height: int = 20, width: int = 30) -> np.ndarray:
    values = np.zeros((height, width), np.uint8)
    values[2:8, 3:9], values[10:15, 10:25], values[0] = 1, 2, IGNORE_LABEL
    return values


def save_palette(path: Path, values: np.ndarray) -> None:
    """As VOC writes them: the colours of the palette say nothing of the indices."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tolist())
    image.save(path)


def write(root: Path, names: tuple[str, ...] = ("a", "deeper/b")) -> Path:
    for split in ("train", "val"):
        for name in names:
            image = root / "images" / split / f"{name}.jpg"
            image.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(20, 30)).save(image)
            save_palette(root / "masks" / split / f"{name}.png", labels())
    (root / "classes.txt").write_text("\n".join(NAMES) + "\n")
    return root


def test_palettes_are_read_as_indices(tmp_path: Path) -> None:
    source = MaskPngData(write(tmp_path))
    split = source.split("train")
    assert source.class_names == split.annotations.class_names == NAMES
    assert [split.annotations.file_name(i) for i in range(len(split))] == ["a.jpg", "deeper/b.jpg"]
    target = split.annotations.target(1)
    np.testing.assert_array_equal(target.class_map, labels())  # type: ignore[arg-type]
    assert target.original_size == split.image(1).shape[:2] == (20, 30)
    assert split.annotations.image_ids.tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["P", "L", "1", "I;16"])
def test_every_kind_of_one_number_a_pixel(mode: str, tmp_path: Path) -> None:
    values = (labels() == 1).astype(np.uint8)
    if mode == "P":
        save_palette(tmp_path / "m.png", values)
    elif mode == "I;16":
        Image.fromarray(values.astype(np.uint16)).save(tmp_path / "m.png")
    elif mode == "1":
        Image.fromarray(values.astype(bool)).save(tmp_path / "m.png")
    else:
        Image.fromarray(values).save(tmp_path / "m.png")
    found = read_mask(tmp_path / "m.png")
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colours_are_refused(mode: str, tmp_path: Path) -> None:
    write(tmp_path)
    mask = tmp_path / "masks/val/a.png"
    Image.fromarray(picture(20, 30)).convert(mode).save(mask)
    split = MaskPngData(tmp_path).split("val")
    with pytest.raises(ValueError, match=rf"mask '.*val/a.png' holds colours \({mode}\).*palette or grey"):
        split.annotations.target(0)


def test_values_beyond_the_classes_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    values = labels()
    values[19, 5:8] = 7
    save_palette(tmp_path / "masks/train/a.png", values)
    message = r"mask '.*train/a.png' has the value 7 in 3 pixels.*none of the 3 classes \(0 background, 1 cat, 2 dog"
    with pytest.raises(ValueError, match=message):
        MaskPngData(tmp_path).split("train").annotations.target(0)
    kept = MaskPngData(tmp_path, unlisted="ignore").split("train").annotations.target(0).class_map
    assert kept is not None
    assert (kept[19, 5:8] == IGNORE_LABEL).all()


def test_sixteen_bits_beyond_a_byte(tmp_path: Path) -> None:
    Image.fromarray(np.full((3, 3), 300, np.uint16)).save(tmp_path / "m.png")
    with pytest.raises(ValueError, match="m.png' has values from 300 to 300; wanted 0 to 255"):
        read_mask(tmp_path / "m.png")


def test_another_size_than_the_picture_is_found_before_training(tmp_path: Path) -> None:
    write(tmp_path)
    save_palette(tmp_path / "masks/train/deeper/b.png", labels(10, 15))
    message = (
        "mask '.*deeper/b.png' is 15 wide and 10 high, but its image '.*deeper/b.jpg' is 30 wide and 20 high"
    )
    with pytest.raises(ValueError, match=message):
        MaskPngData(tmp_path).split("train")


def test_sizes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    write(tmp_path)
    save_rotated(tmp_path / "images/train/a.jpg", picture(20, 30))
    split = MaskPngData(tmp_path).split("train")
    assert split.image(0).shape[:2] == split.annotations.target(0).original_size == (20, 30)


def test_images_without_masks_are_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "masks/train/a.png").unlink()
    with pytest.raises(
        FileNotFoundError, match="1 of 2 images have no mask: 'a.jpg' wants '.*a.png'; add the masks"
    ):
        MaskPngData(tmp_path).split("train")


def test_damaged_mask(tmp_path: Path) -> None:
    write(tmp_path)
    mask = tmp_path / "masks/train/a.png"
    split = MaskPngData(tmp_path).split("train")
    mask.write_bytes(mask.read_bytes()[:-40])
    with pytest.raises(ValueError, match="mask '.*a.png' cannot be decoded"):
        split.annotations.target(0)
    mask.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="a.png' cannot be read as an image"):
        MaskPngData(tmp_path).split("train")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"root": "nowhere"}, "data.root=nowhere does not exist"),
        ({"classes": ["a", "a"]}, "names a class twice: a, a"),
        ({"classes": {"a": 0, "b": 256}}, r"gives the values \[0, 256\]; wanted a different one .* 0 to 255"),
        ({"classes": {"a": 3, "b": 3}}, r"gives the values \[3, 3\]"),
        ({"unlisted": "drop"}, "data.unlisted=drop is unknown; wanted one of error, ignore"),
    ],
)
def test_bad_settings(options: dict, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        MaskPngData(**{"root": tmp_path, **options})


def test_classes_that_nobody_named(tmp_path: Path) -> None:
    write(tmp_path)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(
        ValueError, match=r"nothing says which class.*data.classes=\[background,…\].*classes.txt"
    ):
        MaskPngData(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"train_images": "elsewhere"},
            "no train split: '.*elsewhere' is no folder; name it with data.train_images=",
        ),
        (
            {"train_masks": "elsewhere"},
            "no train split: '.*elsewhere' is no folder; name it with data.train_masks=",
        ),
        ({"image_suffix": "_x"}, "'.*images/train' holds no images whose names end in '_x'"),
    ],
)
def test_missing_folders_and_images(options: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        MaskPngData(write(tmp_path), **options).split("train")


def test_max_images(tmp_path: Path) -> None:
    assert len(MaskPngData(write(tmp_path), max_images=1).split("train")) == 1


def test_cityscapes_as_its_configuration_has_it(tmp_path: Path) -> None:
    """The labelIds of the 19 classes become 0 … 18; all others are ignored."""
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "data/cityscapes.yaml"))
    assert isinstance(config, dict)
    options = {key: value for key, value in config.items() if key not in ("_target_", "root")}
    values = np.arange(36, dtype=np.uint8).reshape(6, 6)
    values[5, 5] = IGNORE_LABEL
    place = "aachen/aachen_000000_000019"
    image = tmp_path / f"leftImg8bit/train/{place}_leftImg8bit.png"
    image.parent.mkdir(parents=True)
    Image.fromarray(picture(6, 6)).save(image)
    mask = tmp_path / f"gtFine/train/{place}_gtFine_labelIds.png"
    mask.parent.mkdir(parents=True)
    Image.fromarray(values).save(mask)
    for other in ("color", "instanceIds"):  # as the download has them beside
        Image.fromarray(picture(6, 6)).save(tmp_path / f"gtFine/train/{place}_gtFine_{other}.png")
    source = MaskPngData(tmp_path, **options)
    assert len(source.class_names) == 19
    class_map = source.split("train").annotations.target(0).class_map
    assert class_map is not None
    train_ids = dict(zip(values.ravel().tolist(), class_map.ravel().tolist(), strict=True))
    # cityscapesScripts, helpers/labels.py
    assert train_ids[7] == 0 and train_ids[26] == 13 and train_ids[33] == 18 and train_ids[31] == 16
    assert {id_ for id_, label in train_ids.items() if label != IGNORE_LABEL} == {
        7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33,
    }  # fmt: skip


@pytest.mark.parametrize("layout", ["data=mask_png", "data=auto"])
def test_texts_and_masks_behind_links_that_lead_outside_are_not_read(layout: str, tmp_path: Path) -> None:
    """A list of classes is written into every model file: it must not be one of somebody's own texts."""
    secret = tmp_path / "secret"
    secret.write_text("\n".join(NAMES) + "\npassword\n")
    root = write(tmp_path / "set")
    file = root / "classes.txt"
    file.unlink()
    file.symlink_to(secret)

    def opened(**options: Any) -> list[str]:
        return tasks.data.open(layout.removeprefix("data="), root=root, **options).class_names

    with pytest.raises(
        ValueError, match=r"classes\.txt' leads out of the data set; put the text itself there"
    ):
        opened()
    if layout == "data=mask_png":
        assert opened(allow_outside=True) == [*NAMES, "password"]
    file.unlink()
    (root / "names").write_text("\n".join(NAMES))
    file.symlink_to("names")  # a link inside is one of the set's own files
    assert opened() == NAMES
    mask = root / "masks" / "train" / "a.png"
    mask.rename(tmp_path / "a.png")
    mask.symlink_to(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"mask '.*a\.png' is outside the data set"):
        tasks.data.open("mask_png", root=root).split("train")
    assert len(tasks.data.open("mask_png", root=root, allow_outside=True).split("train")) == 2
