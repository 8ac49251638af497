"""The headers of ordinary JPEGs are PIL's; what is not ordinary is left to PIL."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tasks.cli.bar import ReadingBar
from tasks.data.loading.storage import FolderStorage
from tasks.data.progress import showing
from tasks.data.quality import image_checks
from tasks.data.quality.image_checks import check_image_files, image_sizes
from tasks.data.quality.issues import EXIF_IGNORED, EXIF_ROTATED, MISSING, OTHER_SIZE, TRUNCATED, UNREADABLE
from tasks.data.quality.jpeg_header import jpeg_header


def jpeg(mode: str = "RGB", orientation: int | None = None, **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
    buffer, exif = io.BytesIO(), Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
        exif[0x010F] = "a maker"
    Image.fromarray(pixels).convert(mode).save(buffer, "JPEG", exif=exif, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"x" * 1000, "dpi": (72, 72)}])
@pytest.mark.parametrize("orientation", [None, 1, 6, 8])
def test_it_is_pils(mode: str, options: dict[str, object], orientation: int | None) -> None:
    content = jpeg(mode, orientation, **options)
    header = jpeg_header(content[:4096])
    assert header is not None
    with Image.open(io.BytesIO(content)) as image:
        assert (header.width, header.height) == image.size
        assert header.orientation == image.getexif().get(0x0112, 1)


def test_what_is_not_ordinary_is_left_to_pil() -> None:
    content = jpeg()
    assert jpeg_header(b"") is None
    assert jpeg_header(content[:20]) is None
    assert jpeg_header(b"\x89PNG" + content) is None
    assert jpeg_header(jpeg(icc_profile=b"x" * 10_000)[:4096]) is None  # its frame comes later
    xmp = jpeg(xmp=b'<x:xmpmeta xmlns:tiff="t" tiff:Orientation="6"/>')
    assert jpeg_header(xmp[:4096]) is None
    frame = content.index(b"\xff\xc0")
    assert jpeg_header(content[: frame + 4] + b"\x0c" + content[frame + 5 :]) is None  # 12 bits


def test_checks_say_the_same_of_every_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"plain.jpg": jpeg(), "turned.jpg": jpeg(orientation=6), "cut.jpg": jpeg()[:-300], "none.jpg": b"nothing",
             "long.jpg": jpeg(icc_profile=b"x" * 10_000), "other.jpg": jpeg()}  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    names = [*files, "absent.jpg"]
    sizes = np.array([[30, 50], [30, 50], [30, 50], [30, 50], [30, 50], [31, 50], [30, 50]])
    wanted = [None, EXIF_IGNORED, TRUNCATED, UNREADABLE, None, OTHER_SIZE, MISSING]
    found = check_image_files(FolderStorage(tmp_path), names, sizes, "headers")
    assert [f.issue for f in found] == wanted
    monkeypatch.setattr(image_checks, "ordinary_jpeg", lambda store, name: None)
    slow = check_image_files(FolderStorage(tmp_path), names, sizes, "headers")
    assert [(f.issue, f.detail, f.num_bytes) for f in found] == [
        (f.issue, f.detail, f.num_bytes) for f in slow
    ]
    turned = check_image_files(FolderStorage(tmp_path), ["turned.jpg"], np.array([[50, 30]]), "headers")
    assert turned[0].issue is EXIF_ROTATED


def test_sizes_are_upright(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg(orientation=6))
    (tmp_path / "b.jpg").write_bytes(jpeg(orientation=3))
    assert image_sizes(FolderStorage(tmp_path), ["a.jpg", "b.jpg", "none.jpg"]).tolist() == [
        [50, 30],
        [30, 50],
        [0, 0],
    ]


def test_a_large_set_shows_how_far_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checks, "MANY", 100)
    (tmp_path / "a.jpg").write_bytes(jpeg())
    seen: list[tuple[str, int, int]] = []
    with showing(lambda *step: seen.append(step)):
        image_sizes(FolderStorage(tmp_path), ["a.jpg"] * 150)
        image_sizes(FolderStorage(tmp_path), ["a.jpg"] * 99)
    assert sorted(seen) == [("looking at images", done, 150) for done in (0, 64, 128, 150)]


def test_the_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    bar = ReadingBar(stream)
    bar("reading", 5, 10)
    assert stream.getvalue() == f"\r\033[Kreading [{'#' * 12}{' ' * 12}] 50 %"
    bar("reading", 6, 10)  # at once after that: not drawn
    bar("reading", 10, 10)
    assert stream.getvalue().endswith("50 %\r\033[K")
    plain = io.StringIO()
    ReadingBar(plain)("reading", 5, 10)
    assert plain.getvalue() == "reading: 50 %\n"
