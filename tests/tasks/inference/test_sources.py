"""What `source` means: which pictures, in which order and under which names, and when nothing is fetched."""

import os
from itertools import islice
from pathlib import Path

import pytest

from tasks.inference.sources import Video, find_pictures, find_video


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_a_folder_means_all_folders_in_it(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "b/c/2.JPG",
        "b/1.png",
        "a.png",
        "a.jpg",
        "a-2.bmp",
        "b/notes.txt",
        ".hidden/x.png",
        "b/.x.png",
    )
    touch(tmp_path, "out/a.jpg")
    found = list(find_pictures(str(tmp_path), leave_out=tmp_path / "out"))
    assert [(picture.file_name, picture.name) for picture in found] == [
        ("a-2.bmp", "a-2"),
        ("a.jpg", "a"),
        ("a.png", "a-3"),
        ("b/1.png", "b/1"),
        ("b/c/2.JPG", "b/c/2"),
    ]
    assert found[3].place == str(tmp_path / "b" / "1.png")


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.png")
    (tmp_path / "a" / "back").symlink_to(tmp_path)
    assert [picture.file_name for picture in find_pictures(str(tmp_path))] == ["a/1.png"]


def test_a_list_keeps_its_order_and_is_relative_to_itself(tmp_path: Path) -> None:
    touch(tmp_path, "in/b.png", "in/a.png", "other/b.png")
    (tmp_path / "in" / "list.txt").write_text(
        f"# mine\nb.png\n\n{tmp_path / 'other' / 'b.png'}\na.png\nmissing.png\n"
    )
    found = list(find_pictures(str(tmp_path / "in" / "list.txt")))
    assert [Path(picture.place).relative_to(tmp_path).as_posix() for picture in found] == [
        "in/b.png",
        "other/b.png",
        "in/a.png",
        "in/missing.png",  # is told of where it is read
    ]
    assert [picture.name for picture in found] == ["b", "b-2", "a", "missing"]


def test_addresses_in_a_list_are_fetched_only_when_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "urls.txt"
    path.write_text("a.png\nhttps://example.org/some/photo%20one.jpg?size=3\nhttp://example.org/\n")
    with pytest.raises(
        ValueError, match=r"urls.txt lists addresses, the first in line 2; give download=true"
    ):
        list(find_pictures(str(path)))
    assert [picture.name for picture in find_pictures(str(path), download=True)] == [
        "a",
        "photo_one",
        "picture",
    ]


@pytest.mark.parametrize("line", ["x" * 5000, "a\0.png"])
def test_a_list_that_is_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "list.txt").write_text(f"{line}\n")
    with pytest.raises(ValueError, match="list.txt, line 1, is not a path or an address"):
        list(find_pictures(str(tmp_path / "list.txt")))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("", "holds no pictures"),
        ("empty.txt", "lists no pictures"),
        ("*.png", "is not a picture, folder or glob"),
        ("nowhere.jpg", "is not a picture, folder or glob"),
        ("x" * 300, "is not a picture|too long"),
    ],
)
def test_nothing_there(tmp_path: Path, source: str, message: str) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(OSError, match=message):
        list(find_pictures(str(tmp_path / source)))


def test_a_glob_is_sorted_and_two_of_one_name_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, "b/1.png", "a/1.png", "a/x/1.png")
    found = list(find_pictures(f"{tmp_path}/**/*.png"))
    assert [Path(picture.place).relative_to(tmp_path).as_posix() for picture in found] == [
        "a/1.png",
        "a/x/1.png",
        "b/1.png",
    ]
    assert [picture.name for picture in found] == ["1", "1-2", "1-3"]


def test_many_of_one_name_take_no_longer_than_others(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{i}/img.png\n" for i in range(50_000)))
    found = list(find_pictures(str(tmp_path / "list.txt")))
    assert len({picture.name for picture in found}) == 50_000


def test_videos_cameras_and_streams(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "clip.MP4", "7", "a.png")
    assert find_video("clip.MP4") == Video("clip.MP4", "clip", False)
    assert find_video("0") == Video(0, "camera-0", True)
    assert find_video("7") is None  # a file of that name
    assert find_video("rtsp://host/live.sdp") == Video("rtsp://host/live.sdp", "live", True)
    assert find_video("http://host/") == Video("http://host/", "stream", True)
    assert find_video("http://host/a.jpg?x=1") is None
    assert [picture.name for picture in find_pictures("http://host/a.jpg?x=1")] == ["a"]
    assert find_video("a.png") is None and find_video("*.mp4") is None


def test_names_that_are_not_text_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (tmp_path / name).touch()
    (found,) = find_pictures(str(tmp_path))
    assert found.file_name == name


def test_listing_holds_one_folder_at_a_time(tmp_path: Path) -> None:
    """The first picture comes before the other folders are looked into."""
    touch(tmp_path, "a/1.png", "b/1.png")
    found = find_pictures(str(tmp_path))
    first = list(islice(found, 1))
    (tmp_path / "b" / "2.png").touch()
    assert [picture.file_name for picture in [*first, *found]] == ["a/1.png", "b/1.png", "b/2.png"]
