from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from tasks.data.loading.images import decode_jpeg, read_image, resize, to_rgb
from tasks.preprocessing import Preprocessing
from tests.tasks.data.coco_on_disk import picture, save_rotated


def grey_of(image: np.ndarray) -> np.ndarray:
    assert (image == image[:, :, :1]).all()
    return image[:, :, 0]


def test_rgb_order_and_values(tmp_path: Path) -> None:
    Image.fromarray(picture(20, 30)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), picture(20, 30))


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 20}]
)
@pytest.mark.parametrize("behind", [b"", b"\0\0"])
def test_jpeg_equals_pil(tmp_path: Path, options: dict, behind: bytes) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (33, 47, 3), np.uint8)
    path = tmp_path / "a.jpg"
    Image.fromarray(noise).save(path, **options)
    path.write_bytes(path.read_bytes() + behind)
    with Image.open(path) as image:
        np.testing.assert_array_equal(read_image(path), np.asarray(image))
        assert (decode_jpeg(path.read_bytes(), image) is None) == bool(behind), "PIL decoded, or OpenCV"


def test_damaged_jpeg_with_an_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    Image.fromarray(picture(64, 64)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[:20] + content[-2:])
    with pytest.raises(ValueError, match=r"a\.jpg'"):
        read_image(path)


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_exif_orientation(tmp_path: Path, orientation: int) -> None:
    save_rotated(tmp_path / "a.jpg", picture(20, 30), orientation)
    image = read_image(tmp_path / "a.jpg")
    assert image.shape == (20, 30, 3)
    assert np.abs(image.astype(int) - picture(20, 30)).max() < 12
    with Image.open(tmp_path / "a.jpg") as opened:
        np.testing.assert_array_equal(to_rgb(opened), image)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_modes(tmp_path: Path, mode: str) -> None:
    source = Image.fromarray(picture(20, 30)).convert(mode)
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    source.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))
    image = read_image(path)
    assert image.shape == (20, 30, 3)
    assert image.dtype == np.uint8
    expected = np.asarray(source.convert("RGB")).astype(int)
    assert np.abs(image - expected).max() <= (12 if path.suffix == ".jpg" else 0)


def test_palette_with_transparency_drops_it(tmp_path: Path) -> None:
    palette = Image.fromarray(picture(20, 30)).convert("P")
    palette.save(tmp_path / "a.png", transparency=bytes([0, 128] * 128))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), np.asarray(palette.convert("RGB")))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 256, 257, 32768, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values)
    assert grey_of(read_image(tmp_path / "a.png")).tolist() == [[0, 0, 1, 127, 255]]


def test_floating_point_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a\.tif' cannot be decoded .*floating point"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("format", ["jpg", "png", "webp", "bmp"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_truncated(tmp_path: Path, format: str, share: float) -> None:
    path = tmp_path / f"cut.{format}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ValueError, match=rf"cut\.{format}'"):
        read_image(path)


def test_missing_not_an_image_and_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"image file '.*none\.jpg' does not exist"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "text.jpg").write_text("not a picture")
    with pytest.raises(ValueError, match=r"text\.jpg' is not an image in a format that can be read"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(ValueError, match="is a folder, where an image file was wanted"):
        read_image(tmp_path)


def test_arrays() -> None:
    np.testing.assert_array_equal(to_rgb(picture(4, 5)), picture(4, 5))
    assert grey_of(to_rgb(picture(4, 5)[:, :, 0])).shape == (4, 5)
    for wrong in (np.zeros((4, 5, 3)), np.zeros((3, 4, 5), np.uint8), np.zeros((0, 5, 3), np.uint8)):
        with pytest.raises(
            ValueError, match=r"wanted an RGB array of shape \(height, width, 3\) and dtype uint8"
        ):
            to_rgb(wrong)


@pytest.mark.parametrize("size", [(100, 140), (140, 100), (60, 300), (33, 33)])
def test_resize_is_torchvisions(size: tuple[int, int]) -> None:
    image = picture(*size)
    preprocessing = Preprocessing(short_side=80, max_size=133)
    resized = resize(image, preprocessing)
    transform = GeneralizedRCNNTransform(80, 133, [0.0] * 3, [1.0] * 3)
    pixels = torch.from_numpy(image).permute(2, 0, 1).float()
    expected, _ = transform.resize(pixels, None)
    assert resized.shape == (*expected.shape[1:], 3)
    # Both are bilinear and without antialiasing; uint8 rounds, and so do OpenCV's weights.
    assert np.abs(resized - expected.permute(1, 2, 0).numpy()).max() < 1.6


def test_no_resize() -> None:
    image = picture(20, 30)
    assert resize(image, Preprocessing(short_side=None)) is image
