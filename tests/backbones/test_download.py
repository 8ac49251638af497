"""Downloads, from a server on this machine: verified before use, resumed, from mirror and cache folders."""

import hashlib
import socket

import pytest
import torch

import backbones
from backbones.download import fetch
from tests.backbones.file_server import FileServer

BODY = bytes(range(256)) * 400
DIGEST = hashlib.sha256(BODY).hexdigest()
NAME = f"net-{DIGEST[:8]}.pth"
HALF = len(BODY) // 2


@pytest.fixture
def server():
    server = FileServer()
    server.files[NAME] = BODY
    yield server
    server.close()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VERTEBRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("VERTEBRA_MIRROR", raising=False)
    return tmp_path / "cache"


def closed_port():
    """The address of a port where nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def assert_only(folder, *names):
    assert {path.name for path in folder.iterdir() if path.suffix != ".lock"} == set(names)


def test_progress_and_cache(server, cache, capsys):
    path = fetch(f"{server.url}/{NAME}")
    assert path == cache / NAME
    assert path.read_bytes() == BODY
    said = capsys.readouterr().err
    assert f"downloading {NAME} (0.1 MB)" in said
    assert f"downloaded {NAME}: 0.1 MB" in said
    assert fetch(f"{server.url}/{NAME}") == path
    assert len(server.requests) == 1  # the second time, the cache had it
    assert capsys.readouterr().err == ""
    assert_only(cache, NAME)


def test_progress_on_a_terminal_is_one_line(server, cache, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fetch(f"{server.url}/{NAME}")
    said = capsys.readouterr().err
    assert said.endswith(f"\rdownloading {NAME} (0.1 MB): 0.1 MB, 100%\n")
    assert said.count("\n") == 1


def test_torch_hubs_folder_is_the_cache_unless_told_otherwise(server, cache, tmp_path, monkeypatch):
    monkeypatch.delenv("VERTEBRA_CACHE")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
    assert fetch(f"{server.url}/{NAME}") == tmp_path / "hub" / "checkpoints" / NAME
    assert fetch(f"{server.url}/{NAME}", cache=tmp_path / "own") == tmp_path / "own" / NAME


def test_a_broken_connection_is_continued_at_once(server, cache):
    server.cuts = [HALF]
    assert fetch(f"{server.url}/{NAME}").read_bytes() == BODY
    assert server.requests == [(NAME, None), (NAME, f"bytes={HALF}-")]


@pytest.mark.parametrize("knows_ranges", [True, False])
def test_the_next_call_goes_on_or_starts_again(server, cache, knows_ranges):
    server.knows_ranges = knows_ranges
    server.cuts = [HALF, 100]
    with pytest.raises(ValueError, match=rf"the connection ended after \d+ of {len(BODY)} bytes"):
        fetch(f"{server.url}/{NAME}")
    left = HALF + 100 if knows_ranges else 100
    assert (cache / f"{NAME}.vertebra-part").stat().st_size == left
    assert not (cache / NAME).exists()
    assert fetch(f"{server.url}/{NAME}").read_bytes() == BODY
    assert server.requests[-1] == (NAME, f"bytes={left}-")
    assert_only(cache, NAME)


@pytest.mark.parametrize("part", [b"of another file", b"x" * len(BODY), b"x" * (len(BODY) + 9)])
def test_a_part_of_another_file_is_thrown_away(server, cache, part):
    cache.mkdir()
    (cache / f"{NAME}.vertebra-part").write_bytes(part)
    assert fetch(f"{server.url}/{NAME}").read_bytes() == BODY
    assert set(server.agents) == {"vertebra"}
    assert_only(cache, NAME)


def test_without_a_digest_nothing_old_is_continued(server, cache):
    server.files["plain.pth"] = BODY
    cache.mkdir()
    address = f"{server.url}/plain.pth"
    folder = cache / hashlib.sha256(address.encode()).hexdigest()[:16]
    folder.mkdir()
    (folder / "plain.pth.vertebra-part").write_bytes(b"of another file")
    assert fetch(address).read_bytes() == BODY
    assert server.requests == [("plain.pth", None)]


def test_a_corrupted_file_is_refused_and_removed(server, cache):
    server.files[NAME] = BODY[:-1] + b"?"
    with pytest.raises(
        ValueError, match=f"the file that came is damaged: its SHA-256 does not begin with {DIGEST[:8]}"
    ):
        fetch(f"{server.url}/{NAME}")
    assert_only(cache)


def test_a_digest_in_the_address_is_checked_in_full(server, cache):
    nearly = DIGEST[:-1] + ("0" if DIGEST[-1] != "0" else "1")
    with pytest.raises(ValueError, match=f"does not begin with {nearly}"):
        fetch(f"{server.url}/{NAME}#sha256={nearly}")
    assert fetch(f"{server.url}/{NAME}#sha256={DIGEST}").read_bytes() == BODY


def test_a_file_in_the_cache_that_is_not_the_right_one_stays_as_it_is(server, cache, capsys):
    """Somebody else may need it: torch.hub and timm keep theirs in the same folder."""
    cache.mkdir()
    (cache / NAME).write_bytes(BODY[:1000])
    path = fetch(f"{server.url}/{NAME}")
    assert path == cache / DIGEST[:8] / NAME
    assert path.read_bytes() == BODY
    assert f"{cache / NAME} is not the file that is wanted" in capsys.readouterr().err
    assert (cache / NAME).read_bytes() == BODY[:1000]
    assert fetch(f"{server.url}/{NAME}") == path
    assert len(server.requests) == 1
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match="is not the file that is wanted: .*; move it away"):
        fetch(f"{server.url}/{NAME}")
    assert path.read_bytes() == b"damaged"


def test_a_digest_in_the_address_never_weakens_the_one_in_the_name(server, cache):
    """`resnet18-f37072fd.pth#sha256=<of another file>` must not put another file under torchvision's name."""
    other = b"code of somebody else"
    server.files[NAME] = other
    digest = hashlib.sha256(other).hexdigest()
    with pytest.raises(
        ValueError, match=f"contradicts the name {NAME}, by which the SHA-256 begins with {DIGEST[:8]}"
    ):
        fetch(f"{server.url}/{NAME}#sha256={digest}")
    for fragment in ("sha256=", f"sha256={DIGEST[:7]}", "sha256=../../x"):
        with pytest.raises(ValueError, match="is not a SHA-256; give 8 to 64"):
            fetch(f"{server.url}/{NAME}#{fragment}")
    with pytest.raises(ValueError, match=f"does not begin with {DIGEST}"):
        fetch(f"{server.url}/{NAME}#sha256={DIGEST}")
    assert not (cache / NAME).exists()
    cache.mkdir(exist_ok=True)
    (cache / NAME).write_bytes(BODY)  # the genuine one, and an address with a longer digest that begins alike
    with pytest.raises(ValueError, match="could not download"):
        fetch(f"{server.url}/{NAME}#sha256={DIGEST[:8]}{'0' * 56}")
    assert (cache / NAME).read_bytes() == BODY


def test_files_without_a_digest_are_kept_apart_by_address(server, cache):
    server.files |= {"a/plain.pth": b"first", "b/plain.pth": b"second"}
    first, second = (fetch(f"{server.url}/{folder}/plain.pth") for folder in "ab")
    assert (first.read_bytes(), second.read_bytes()) == (b"first", b"second")
    assert not (cache / "plain.pth").exists()


def test_mirror_folder_comes_first(server, cache, tmp_path, monkeypatch):
    mirror = tmp_path / "a mirror"
    mirror.mkdir()
    (mirror / NAME).write_bytes(BODY)
    monkeypatch.setenv("VERTEBRA_MIRROR", str(mirror))
    assert fetch(f"{server.url}/{NAME}").read_bytes() == BODY
    assert server.requests == []


def test_mirror_address_that_lacks_the_file_gives_way(server, cache, monkeypatch):
    server.files = {f"published/{NAME}": BODY}
    monkeypatch.setenv("VERTEBRA_MIRROR", f"{server.url}/mirror/")
    assert fetch(f"{server.url}/published/{NAME}").read_bytes() == BODY
    assert [name for name, _ in server.requests] == [f"mirror/{NAME}", f"published/{NAME}"]


def test_without_a_network_the_error_names_file_and_place(cache, tmp_path, monkeypatch):
    address = f"{closed_port()}/{NAME}"
    with pytest.raises(ValueError, match=f"could not download {NAME}") as caught:
        fetch(address)
    assert (
        f"get {address} elsewhere and put it at {cache / NAME}, or set VERTEBRA_MIRROR to a folder that holds "
        f"{NAME}" in str(caught.value)
    )
    (cache / NAME).write_bytes(BODY)  # as it says
    assert fetch(address).read_bytes() == BODY


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ValueError, match=r"cannot write to the cache folder .*; set VERTEBRA_CACHE"):
        fetch(f"{server.url}/{NAME}", cache=tmp_path / "file" / "folder")


def test_an_address_without_a_file():
    with pytest.raises(ValueError, match="names no file; give the address of a .pth"):
        fetch("https://127.0.0.1/")


def test_create_downloads_what_pretrained_names(server, cache, tmp_path, monkeypatch):
    state = backbones.create("cifar_resnet20").state_dict()
    torch.save(state, tmp_path / "weights.pth")
    server.files["weights.pth"] = (tmp_path / "weights.pth").read_bytes()
    extractor = backbones.create("cifar_resnet20", pretrained=f"{server.url}/weights.pth")
    for key, value in extractor.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_published_weights_come_verified_from_the_mirror(cache, tmp_path, monkeypatch):
    published = backbones.WEIGHTS["resnet18"]["IMAGENET1K_V1"]
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    torch.save(backbones.create("resnet18").state_dict(), mirror / published.file)  # not what it should be
    monkeypatch.setenv("VERTEBRA_MIRROR", str(mirror))
    monkeypatch.setitem(
        backbones.WEIGHTS["resnet18"],
        "IMAGENET1K_V1",
        backbones.Published(f"{closed_port()}/{published.file}", 69.758, 256),
    )
    for pretrained in (True, "IMAGENET1K_V1"):
        with pytest.raises(ValueError, match=f"does not begin with {published.sha256}.*put it at") as caught:
            backbones.create("resnet18", pretrained=pretrained)
        assert len(published.sha256) == 64
        assert str(cache / published.file) in str(caught.value)
    with pytest.raises(
        ValueError, match="'IMAGENET1K_V9' is neither a file nor weights of resnet18, did you"
    ):
        backbones.create("resnet18", pretrained="IMAGENET1K_V9")
    with pytest.raises(
        ValueError, match="no weights are published for plain_resnet18; pass pretrained=<path"
    ):
        backbones.create("plain_resnet18", pretrained=True)
