"""Pictures and archives that claim more than they are, or are no files at all: one sentence, and little memory."""

import io
import os
import re
import signal
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset

from tasks.cli.errors import sentence, user_error, user_sentence
from tasks.data.loading.images import Reading, read_image
from tasks.data.loading.loader import ResumableLoader, WorkerError
from tasks.data.loading.samplers import EpochSampler
from tasks.data.loading.storage import FolderStorage, open_images
from tasks.data.quality.image_checks import check_image_file
from tests.tasks.data.coco_on_disk import picture


def jpeg(**options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(40, 60)).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def claiming(height: int, width: int) -> bytes:
    """A JPEG whose header claims this size."""
    content = bytearray(jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def scans(number: int) -> bytes:
    """A progressive JPEG whose last scan comes that often."""
    content = jpeg(progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * number + content[-2:]


def png(height: int, width: int) -> bytes:
    """A PNG of zeros, compressed a thousandfold."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (claiming(13_000, 13_000), "is too large .*max_pixels="),
        (claiming(65_000, 65_000), "is too large .*max_pixels="),
        (png(10_000, 10_000), "is too large .*max_pixels="), (scans(3000), "has 30[0-9]+ scans"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not an image in a format"),
        (b"", "is not an image in a format"),
    ],
)  # fmt: skip
def test_pictures_that_are_too_much(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.jpg' {message}"):
        read_image(path)
    found = check_image_file(FolderStorage(tmp_path), "a.jpg", (0, 0), decode=True)
    assert found.issue is not None
    assert re.search(message, found.detail)


def test_a_limit_that_a_setting_raises_or_lowers(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(300, 400))
    assert read_image(path).shape == (300, 400, 3)
    with pytest.raises(ValueError, match="400 wide and 300 high, more than 100000 pixels"):
        read_image(path, reading=Reading(max_pixels=100_000))
    limit = Image.MAX_IMAGE_PIXELS
    try:
        path.write_bytes(png(9_500, 9_500))
        assert read_image(path, reading=Reading(max_pixels=91_000_000)).shape == (9_500, 9_500, 3)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def test_a_jpeg_of_usual_scans_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(progressive=True))
    assert read_image(tmp_path / "a.jpg").shape == (40, 60, 3)


@pytest.mark.parametrize("name", ["pipe.jpg", "null.jpg"])
def test_no_file_at_all(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "null.jpg").symlink_to("/dev/zero")
    for decode in (True, False):
        found = check_image_file(FolderStorage(tmp_path, Reading(allow_outside=True)), name, (0, 0), decode)
        assert "is a pipe, a socket or a device" in found.detail
    with pytest.raises(ValueError, match="is a pipe, a socket or a device"):
        read_image(tmp_path / name)


def zipped(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytearray:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("a.png", content)
    return bytearray(path.read_bytes())


def test_members_of_a_zip_that_are_not_as_it_says(tmp_path: Path) -> None:
    path, content = tmp_path / "a.zip", png(40, 60)
    sound = zipped(path, content)
    assert open_images(path).read("a.png") == content
    entry = sound.index(b"PK\x01\x02")
    data = sound.index(b"a.png") + 5

    changed = iter(range(1, 100))

    def spoilt(place: int, value: bytes) -> str:
        damaged = bytearray(sound)
        damaged[place : place + len(value)] = value
        path.write_bytes(damaged)
        os.utime(path, ns=(1, next(changed)))  # or its list of contents would not be read anew
        with pytest.raises(ValueError, match=r"a\.zip") as caught:
            open_images(path).read("a.png")
        return str(caught.value)

    assert "is encrypted" in spoilt(entry + 8, b"\x01")
    assert "checksum is wrong" in spoilt(entry + 16, b"\0\0\0\0")
    assert "not of the 7 bytes" in spoilt(entry + 24, struct.pack("<I", 7))
    assert "more than the" in spoilt(entry + 24, struct.pack("<I", 3 << 30))
    assert "behind the end" in spoilt(entry + 20, struct.pack("<I", 2 << 30))
    assert "cannot be unpacked" in spoilt(data, b"\xff\xff\xff")
    assert "its header is missing" in spoilt(0, b"XX")
    assert "cannot be read" in spoilt(entry, b"XX")


def test_a_zip_of_zeros_unpacks_no_further_than_it_says(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    content = zipped(path, bytes(200_000_000))
    assert len(content) < 300_000
    with pytest.raises(ValueError, match="has 200000000 bytes, more than the 8000000 that are read"):
        open_images(path, Reading(max_pixels=1_000_000)).read("a.png")
    entry = content.index(b"PK\x01\x02")
    content[entry + 24 : entry + 28] = struct.pack("<I", 1000)
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))
    with pytest.raises(ValueError, match="not of the 1000 bytes"):
        open_images(path, Reading(max_pixels=1_000_000)).read("a.png")


def test_a_tar_that_is_cut_short(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("a.png")
        info.size = 5000
        archive.addfile(info, io.BytesIO(bytes(5000)))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"a\.tar.* (ends behind the end of the archive|no plain tar file)"):
        open_images(path).read("a.png")


def test_long_names_in_archives_take_their_own_length(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x" * 60_000 + ".png", b"")
        for number in range(20_000):
            archive.writestr(f"{number}.png", b"")
    store = open_images(tmp_path / "a.zip")
    assert len(store.names()) == 20_001
    assert store.missing(["777.png", "20000.png"]) == ["20000.png"]


class Failing(Dataset[Any]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, position: tuple[int, int]) -> int:
        if position[1] == 1:
            self.fail()
        return position[1]

    def fail(self) -> None:
        raise ValueError("image 'a.jpg' cannot be decoded (why): replace it")


class Killed(Failing):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def batches(data: Failing) -> list[Any]:
    sampler = EpochSampler(4, shuffle=False)
    return list(ResumableLoader(data, batch_size=1, sampler=sampler, num_workers=1))


def test_errors_of_workers_are_told_in_their_own_words() -> None:
    with pytest.raises(ValueError, match="cannot be decoded") as caught:
        batches(Failing())
    assert str(caught.value) == "image 'a.jpg' cannot be decoded (why): replace it"


def test_a_killed_worker_is_one_sentence() -> None:
    with pytest.raises(
        WorkerError, match="most often memory was not enough: lower loader.num_workers"
    ) as caught:
        batches(Killed())
    assert "\n" not in str(caught.value)
    assert user_error(caught.value) is caught.value


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(13, "Permission denied", "/srv/out"), "'/srv/out': permission denied"),
        (NotADirectoryError(20, "Not a directory", "a/b"), "'a/b': not a directory"),
        (IsADirectoryError(21, "Is a directory", "data"), "'data': is a directory"),
        (
            OSError(28, "No space left on device"),
            "no space left on device; make room where the command writes (run_dir=, output= or out=), or name "
            "another place",
        ),
        (FileNotFoundError("there is no such file"), "there is no such file"),
    ],
)
def test_errors_of_files_are_the_users(error: OSError, text: str) -> None:
    assert user_error(error) is error
    assert sentence(error) == text


@pytest.mark.parametrize("error", [ValueError, lambda text: FileNotFoundError(2, "No such file", text)])
def test_a_name_neither_breaks_the_sentence_nor_steers_the_terminal(error: Any) -> None:
    told = user_sentence(error("a\nb \x1b[2J \u202e naïve \udc80.jpg"))
    assert (
        told is not None
        and told.isprintable()
        and "naïve" in told
        and "\\x1b[2J" in told.replace("\\\\", "\\")
    )


def test_other_errors_of_the_system_are_ours() -> None:
    assert user_error(OSError(9, "Bad file descriptor")) is None


def test_every_picture_is_in_range(tmp_path: Path) -> None:
    """16 bits a channel in colour lose their lower half, but not with their range."""
    import cv2

    values = np.random.default_rng(0).integers(0, 1024, (20, 30, 3), np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), values[:, :, ::-1])
    found = FolderStorage(tmp_path).pixels("a.png")
    assert "4 of 256 levels of 16 bits" in found.few_levels
    scaled = FolderStorage(tmp_path, Reading(value_range=(0, 1023))).pixels("a.png")
    assert scaled.few_levels == ""
    assert np.abs(scaled.image - values * (255 / 1023)).max() <= 0.5
